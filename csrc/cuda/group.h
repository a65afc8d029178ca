// The blocks that share a problem, or a part of it.
#pragma once

#include "device.h"

namespace {

constexpr int kSums = 4;  // of one call of Group::sum

// Where the warps of a cluster leave their parts of a sum, in every block's shared memory.
struct Slots {
  double part[2][kMostCluster * kMostThreads / kWarp][kSums];
};

// A block on its own, or all blocks of its cluster. Rows of arrays are dealt to its blocks in
// order, 16 at a time.
class Group {
 public:
  DEVICE Group(Slots& slots, bool alone)
      : slots_(slots), rank_(alone ? 0 : cluster_rank()), size_(alone ? 1 : cluster_size()) {}

  DEVICE int rank() const { return rank_; }
  DEVICE int size() const { return size_; }

  DEVICE void barrier() const {
    if (size_ == 1)
      block_barrier();
    else
      cluster_barrier();
  }
  // x of this block in the block of another rank.
  template <class T>
  DEVICE T* of(int rank, T* x) const {
    return size_ == 1 ? x : in_block(x, rank);
  }

  // Sums over all threads, the same in each; also a barrier. `parity` alternates from call to call.
  template <class T>
  DEVICE void sum(T (&x)[kSums], int& parity, double (&total)[kSums]) const {
    for (T& value : x) value = warp_sum(value);
    if (lane() < size_) {
      double* slot = of(lane(), &slots_.part[parity][rank_ * warps() + warp()][0]);
      for (int i = 0; i < kSums; ++i) slot[i] = double(x[i]);
    }
    barrier();
    for (double& value : total) value = 0;
    for (int w = 0; w < size_ * warps(); ++w)
      for (int i = 0; i < kSums; ++i) total[i] += slots_.part[parity][w][i];
    parity ^= 1;
  }
  DEVICE double largest(double x, int& parity) const {
    x = warp_largest(x);
    if (lane() < size_) *of(lane(), &slots_.part[parity][rank_ * warps() + warp()][0]) = x;
    barrier();
    for (int w = 0; w < size_ * warps(); ++w) x = most(x, slots_.part[parity][w][0]);
    parity ^= 1;
    return x;
  }
  template <class T>
  DEVICE double sum(T x, int& parity) const {
    T parts[kSums] = {x};
    double total[kSums];
    sum(parts, parity, total);
    return total[0];
  }

 private:
  Slots& slots_;
  int rank_, size_;
};

}  // namespace
