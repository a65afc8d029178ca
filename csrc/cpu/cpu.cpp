// The CPU kernels of one instruction set, in one translation unit: they share the product's tiles.

#include "c_transform_cpu.cpp"
#include "channel_mlp_cpu.cpp"
#include "legendre_products_cpu.cpp"
#include "normalise_cpu.cpp"
#include "potential_cpu.cpp"
#include "separable_lse_cpu.cpp"
#include "sinkhorn_separable_cpu.cpp"
#include "sinkhorn_stationary_cpu.cpp"
#include "spectral_analysis_cpu.cpp"
#include "spectral_mixing_cpu.cpp"
#include "spectral_synthesis_cpu.cpp"
#include "stationary_lse_cpu.cpp"
