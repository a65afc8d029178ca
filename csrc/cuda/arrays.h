// What a block knows of a problem and where its arrays are.
#pragma once

#include "../range.h"
#include "grid.h"

namespace {

// The largest entry of each of a pair of matrices, and whether they are symmetric.
struct Facts {
  double largest[2];
  bool symmetric[2];

  DEVICE double total() const { return largest[0] + largest[1]; }
};

// Whether the scaling domain can hold a cost at all.
template <class T>
DEVICE bool fits(const Facts& facts, double epsilon) {
  return factor_shift<T>(facts.largest[0], epsilon) + factor_shift<T>(facts.largest[1], epsilon) <=
             Range<T>::shift &&
         facts.total() < Range<T>::total * epsilon;
}

// The arrays of one precision.
template <class T>
struct Space {
  T *x, *between;  // operand and result of a product, and what stands between its axes
  T* kernel[2];
  bool x_shared, kernel_shared[2];  // rather than in scratch
  T *u, *v, *a, *b;

  DEVICE Space(const Room& room, char* shared, char* scratch) {
    int bit = 0;
    const auto at = [&](int64_t offset) {
      return reinterpret_cast<T*>((room.in_scratch >> bit++ & 1 ? scratch : shared) + offset);
    };
    x = at(room.x), between = at(room.between);
    x_shared = !(room.in_scratch & 1);
    for (int k = 0; k < 2; ++k) kernel_shared[k] = !(room.in_scratch >> (2 + k) & 1);
    kernel[0] = at(room.kernel[0]), kernel[1] = at(room.kernel[1]);
    u = at(room.u), v = at(room.v), a = at(room.a), b = at(room.b);
  }
};

// A level of a problem, as one block sees it.
struct Level {
  const LevelArguments& args;
  const LineArguments& lines;
  const Facts& facts;
  Group group;
  Side n, m;
  const void *a, *b;  // masses of the whole grid
  bool single;        // they are floats
  double scale_a, scale_b;
  double epsilon;
  double *f, *g;  // this block's rows, in place in arrays of the whole grid

  DEVICE bool one_shape() const { return n.n0 == m.n0 && n.n1 == m.n1; }
  // Masses at a place in the whole grid.
  DEVICE double source_mass(int i) const { return number(a, single, i) * scale_a; }
  DEVICE double target_mass(int i) const { return number(b, single, i) * scale_b; }
};

// This thread's part of sums over S, the result of a product, and old, the scaling there so far.
template <class T>
struct Parts {
  T error = 0;    // mass |old S - 1|
  T mass = 0;     // mass old S
  T outside = 0;  // entries of S that are out of range
};

// Puts S in its place and sums over it; old is null where there is none.
template <class T>
class Collector {
 public:
  DEVICE Collector(const Side& side, T* S, double shift, const T* mass, const T* old)
      : side_(side), S_(S), mass_(mass), old_(old), tiny_(T(Range<T>::tiny * exp(shift))),
        huge_(T(Range<T>::huge)) {}

  // Entries (i, j) and (i, j + 1) of the block's rows.
  DEVICE void operator()(int i, int j, T first, T second) {
    const int at = i * side_.ld<T>() + j;
    *reinterpret_cast<Pair<T>*>(S_ + at) = {first, second};
    if (i >= side_.rows) return;
    if (j < side_.n1) take(at, first);
    if (j + 1 < side_.n1) take(at + 1, second);
  }

  Parts<T> parts;

 private:
  DEVICE void take(int at, T S) {
    parts.outside += !(S > tiny_ && S < huge_);
    if (!old_) return;
    const T product = old_[at] * S, most_ratio = T(1e20);
    const T ratio = product < most_ratio ? product : most_ratio;
    parts.error += mass_[at] * (ratio > 1 ? ratio - 1 : 1 - ratio);
    parts.mass += mass_[at] * ratio;
  }

  const Side& side_;
  T* const S_;
  const T *const mass_, *const old_;
  const T tiny_, huge_;
};

}  // namespace
