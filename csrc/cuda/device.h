// What a kernel asks of the processor it runs on. Compiled for the host, the same calls run in the
// emulator.
#pragma once

#ifdef __CUDACC__

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <cstdint>

#define KERNEL __global__
#define DEVICE __device__
#define NOINLINE __noinline__  // one copy of what many places call
#define GRID_CONSTANT __grid_constant__
#define MOST_THREADS(count) __launch_bounds__(count, 1)

namespace {

DEVICE inline int thread() { return int(threadIdx.x); }
DEVICE inline int threads() { return int(blockDim.x); }

// A cluster is a few blocks that read and write each other's shared memory.
DEVICE inline int cluster_index() {
  int x;
  asm("mov.u32 %0, %%clusterid.x;" : "=r"(x));
  return x;
}
DEVICE inline int clusters() {
  int x;
  asm("mov.u32 %0, %%nclusterid.x;" : "=r"(x));
  return x;
}
DEVICE inline int cluster_rank() {
  int x;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(x));
  return x;
}
DEVICE inline int cluster_size() {
  int x;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(x));
  return x;
}
DEVICE inline void block_barrier() { __syncthreads(); }
DEVICE inline void cluster_barrier() {
  asm volatile("barrier.cluster.arrive;\nbarrier.cluster.wait;" ::: "memory");
}
// The place of p, of this block's shared memory, in that of another block of the cluster.
template <class T>
DEVICE T* in_block(T* p, int rank) {
  return cooperative_groups::this_cluster().map_shared_rank(p, rank);
}
DEVICE inline char* shared_memory() {
  extern __shared__ __align__(128) char memory[];
  return memory;
}

// p, which the compiler need not find out to be in shared memory.
template <class T>
DEVICE T* in_shared(T* p) {
  __builtin_assume(__isShared(p));
  return p;
}
template <class T>
DEVICE T shuffle_xor(T x, int mask) {
  return __shfl_xor_sync(0xffffffffu, x, mask);
}

// The operands of a product are rounded to what the tensor cores take.
DEVICE inline double as_operand(double x) { return x; }
DEVICE inline float as_operand(float x) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
  return __uint_as_float(rounded);
}

// c += a b on the tensor cores, for the warp's tile of 16 x 8 and depth 8. With lane = 4 g + t, a
// lane holds a = A(g, t), A(g + 8, t), A(g, t + 4), A(g + 8, t + 4), b = B(t, g), B(t + 4, g) and
// c = C(g, 2t), C(g, 2t + 1), C(g + 8, 2t), C(g + 8, 2t + 1), in both precisions.
DEVICE inline void multiply(double (&c)[4], const double (&a)[4], const double (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
      : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(b[0]), "d"(b[1]));
}
DEVICE inline void multiply(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
  const auto bits = [](float x) { return __float_as_uint(x); };
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(bits(a[0])), "r"(bits(a[1])), "r"(bits(a[2])), "r"(bits(a[3])), "r"(bits(b[0])),
        "r"(bits(b[1])));
}

// Lane i gives the address of 16 bytes, row i % 8 of the matrix i / 8 of 8 x 4 floats in shared
// memory, and receives its element (i / 4, i % 4) of each of the four.
DEVICE inline void load_matrices(const float* row, float (&x)[4]) {
  const auto address = uint32_t(__cvta_generic_to_shared(row));
  uint32_t bits[4];
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(bits[0]), "=r"(bits[1]), "=r"(bits[2]), "=r"(bits[3])
               : "r"(address)
               : "memory");
  for (int i = 0; i < 4; ++i) x[i] = __uint_as_float(bits[i]);
}

DEVICE inline int fetch_add(int* counter) { return atomicAdd(counter, 1); }

DEVICE inline float reciprocal(float x) { return __fdividef(1.0f, x); }
DEVICE inline double reciprocal(double x) { return __drcp_rn(x); }

// Two consecutive numbers at an address that is a multiple of their size.
template <class T>
struct alignas(2 * sizeof(T)) Pair {
  T x, y;
};

}  // namespace

#else
#include "emulator.h"
#endif

#include "../portable.h"

namespace {

constexpr int kWarp = 32, kMostThreads = 256, kMostCluster = 8;

DEVICE inline int lane() { return thread() % kWarp; }
DEVICE inline int warp() { return thread() / kWarp; }
DEVICE inline int warps() { return threads() / kWarp; }

template <class T>
DEVICE T warp_sum(T x) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}
DEVICE inline double warp_largest(double x) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) x = most(x, shuffle_xor(x, mask));
  return x;
}

// Numbers of either precision, of tensors.
DEVICE inline double number(const void* x, bool single, int64_t i) {
  return single ? double(static_cast<const float*>(x)[i]) : static_cast<const double*>(x)[i];
}
DEVICE inline void set_number(void* x, bool single, int64_t i, double value) {
  if (single)
    static_cast<float*>(x)[i] = float(value);
  else
    static_cast<double*>(x)[i] = value;
}

}  // namespace
