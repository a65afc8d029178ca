// exp(-C / epsilon) of a separable cost, as products with one matrix per axis.
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
  bool kernel_shared[2];  // rather than in scratch
  T *u, *v, *a, *b;

  DEVICE Space(const Room& room, char* shared, char* scratch) {
    int bit = 0;
    const auto at = [&](int64_t offset) {
      return reinterpret_cast<T*>((room.in_scratch >> bit++ & 1 ? scratch : shared) + offset);
    };
    x = at(room.x), between = at(room.between);
    for (int k = 0; k < 2; ++k) kernel_shared[k] = !(room.in_scratch >> (2 + k) & 1);
    kernel[0] = at(room.kernel[0]), kernel[1] = at(room.kernel[1]);
    u = at(room.u), v = at(room.v), a = at(room.a), b = at(room.b);
  }
};

// exp(-C_k / epsilon) for both axes, scaled up by a shift. Costs are (rows[k], columns[k]).
template <class T>
class GibbsKernel {
 public:
  DEVICE GibbsKernel(const Space<T>& space, const double* const* cost, const int* rows,
                     const int* columns, const Facts& facts)
      : facts_(facts) {
    for (int k = 0; k < 2; ++k) {
      data_[k] = space.kernel[k];
      shared_[k] = space.kernel_shared[k];
      cost_[k] = cost[k];
      rows_[k] = rows[k];
      columns_[k] = columns[k];
    }
    same_ = data_[0] == data_[1];
  }

  // Logarithm of the scale of both factors; barriers are the caller's.
  DEVICE double build(double epsilon) {
    double shifts = 0;
    for (int k = 0; k < 2; ++k) {
      const double shift = factor_shift<T>(facts_.largest[k], epsilon);
      shifts += shift;
      if (k == 0 || !same_) build(k, -1.0 / epsilon, shift);
    }
    return shifts;
  }
  // Each entry times its cost.
  DEVICE void weight() {
    for (int k = 0; k < (same_ ? 1 : 2); ++k)
      for_entries(k, [&](T* entry, double cost, bool inside) {
        if (inside) *entry = as_operand(T(double(*entry) * cost));
      });
  }

  // Axis k as a matrix to its rows from its columns, beginning at row `first`.
  DEVICE Operand<T> forward(int k, int first) const {
    return {data_[k] + first * stride(k), stride(k), false, shared_[k]};
  }
  DEVICE Operand<T> backward(int k, int first) const {
    if (facts_.symmetric[k]) return forward(k, first);
    return {data_[k] + first, stride(k), true, shared_[k]};
  }

 private:
  DEVICE int stride(int k) const { return stride_for<T>(columns_[k]); }
  template <class F>
  DEVICE void for_entries(int k, F f) {
    for (int i = warp(); i < padded(rows_[k]); i += warps())
      for (int j = lane(); j < padded(columns_[k]); j += kWarp) {
        const bool inside = i < rows_[k] && j < columns_[k];
        f(data_[k] + i * stride(k) + j, inside && cost_[k] ? cost_[k][i * columns_[k] + j] : 0.0,
          inside);
      }
  }
  DEVICE void build(int k, double scale, double shift) {
    for_entries(k, [&](T* entry, double cost, bool inside) {
      *entry = inside ? as_operand(T(exp(T(cost * scale + shift)))) : T(0);
    });
  }

  const Facts& facts_;
  T* data_[2];
  const double* cost_[2];
  int rows_[2], columns_[2];
  bool shared_[2];
  bool same_;  // both axes share one matrix
};

// First half of a product: the rows of space.x, (from.padded_rows, depth), by the matrix of the
// last axis, to `columns` columns, transposed into the space.between of every block of the group.
template <class T>
DEVICE NOINLINE void last_axis(const Group& group, const Space<T>& space, const Side& from,
                               const Operand<T>& matrix, int columns) {
  const int ld = stride_for<T>(from.n0);
  T* const between = space.between + from.first;
  const Operand<T> x{in_shared(space.x), from.ld<T>()};
  const auto out = [&](int i, int j, T first, T second) {
    first = as_operand(first), second = as_operand(second);
    for (int rank = 0; rank < group.size(); ++rank) {
      T* to = group.of(rank, between + j * ld + i);
      to[0] = first, to[ld] = second;
    }
  };
  with_access(matrix, [&](auto access, const Operand<T>& found) {
    product<kInShared<T>, decltype(access)::value>(x, found, from.padded_rows, columns,
                                                   from.padded1(), out);
  });
}

// This thread's part of sums over S, the result of a product, and old, the scaling there so far.
template <class T>
struct Parts {
  T error = 0;  // mass |old S - 1|
  T mass = 0;   // mass old S
  T outside = 0;  // entries of S that are out of range
};

// Second half: x = this block's rows of the matrix of the first axis by space.between. old is null
// where there is none.
template <class T>
DEVICE NOINLINE Parts<T> first_axis(const Space<T>& space, const Operand<T>& matrix, int depth,
                                    const Side& to, double shift, const T* mass, const T* old) {
  const T tiny = T(Range<T>::tiny * exp(shift)), huge = T(Range<T>::huge), most_ratio = T(1e20);
  const Operand<T> between{in_shared(space.between), stride_for<T>(depth)};
  Parts<T> parts;
  const auto out = [&](int i, int j, T first, T second) {
    const int at = i * to.ld<T>() + j;
    *reinterpret_cast<Pair<T>*>(in_shared(space.x) + at) = {first, second};
    if (i >= to.rows) return;
    const auto take = [&](T S, int q) {
      if (j + q >= to.n1) return;
      parts.outside += !(S > tiny && S < huge);
      if (!old) return;
      const T product = old[at + q] * S, ratio = product < most_ratio ? product : most_ratio;
      parts.error += mass[at + q] * (ratio > 1 ? ratio - 1 : 1 - ratio);
      parts.mass += mass[at + q] * ratio;
    };
    take(first, 0);
    take(second, 1);
  };
  with_access(matrix, [&](auto access, const Operand<T>& found) {
    product<decltype(access)::value, kInShared<T>>(found, between, to.padded_rows, to.padded1(),
                                                   padded(depth), out);
  });
  return parts;
}

}  // namespace
