// The CPU kernels of one instruction set, in one translation unit: they share the product's tiles.

#include "normalise_cpu.cpp"
#include "separable_lse_cpu.cpp"
#include "sinkhorn_separable_cpu.cpp"
#include "sinkhorn_stationary_cpu.cpp"
#include "stationary_lse_cpu.cpp"
