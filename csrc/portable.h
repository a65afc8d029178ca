// What code for CPU and GPU shares.
#pragma once

#include <limits>

#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__
#else
#define HOST_DEVICE
#endif

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

HOST_DEVICE constexpr double least(double x, double y) { return y < x ? y : x; }
HOST_DEVICE constexpr double most(double x, double y) { return x < y ? y : x; }

}  // namespace
