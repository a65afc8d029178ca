// exp(-C / epsilon) of a separable cost, as products with one matrix per axis.
#pragma once

#include "arrays.h"

namespace {

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

// Second half: x = this block's rows of the matrix of the first axis by space.between. old is null
// where there is none.
template <class T>
DEVICE NOINLINE Parts<T> first_axis(const Space<T>& space, const Operand<T>& matrix, int depth,
                                    const Side& to, double shift, const T* mass, const T* old) {
  const Operand<T> between{in_shared(space.between), stride_for<T>(depth)};
  Collector<T> collect(to, in_shared(space.x), shift, mass, old);
  const auto out = [&](int i, int j, T first, T second) { collect(i, j, first, second); };
  with_access(matrix, [&](auto access, const Operand<T>& found) {
    product<decltype(access)::value, kInShared<T>>(found, between, to.padded_rows, to.padded1(),
                                                   padded(depth), out);
  });
  return collect.parts;
}

// The products of a solve in the scaling domain. space.x holds their operand, and then S.
template <class T>
class SeparableProduct {
 public:
  static constexpr bool kOperandStays = false;  // S takes its place

  DEVICE SeparableProduct(const Level& level, const Space<T>& space)
      : level_(level), space_(space),
        kernel_(space, level.args.cost, level.args.n, level.args.m, level.facts) {}

  DEVICE double build() { return shift_ = kernel_.build(level_.epsilon); }
  DEVICE T* sums() const { return space_.x; }
  DEVICE void clear(const Side& s) const { zero_fill(s, space_.x); }
  DEVICE void put(const Side& s, int i, int j, T value) const {
    space_.x[i * s.ld<T>() + j] = as_operand(value);
  }
  DEVICE void barrier_after_put() const { block_barrier(); }

  DEVICE Parts<T> operator()(bool forward, const T* mass, const T* old) {
    const Side &from = forward ? level_.m : level_.n, &to = forward ? level_.n : level_.m;
    const auto matrix = [&](int k, int first) {
      return forward ? kernel_.forward(k, first) : kernel_.backward(k, first);
    };
    last_axis(level_.group, space_, from, matrix(1, 0), to.padded1());
    level_.group.barrier();
    return first_axis(space_, matrix(0, to.first), from.n0, to, shift_, mass, old);
  }

  // This thread's part of <C, P> right after a product forward: one product for each axis,
  // weighted there with its cost. enter() puts the operand in place again.
  template <class Enter>
  DEVICE T cost(Enter enter) {
    kernel_.weight();
    block_barrier();
    T sum = weighted_sum();
    block_barrier();  // S and the operand share their place, not their rows
    enter();
    level_.group.barrier();  // everyone is done with what stands between the axes
    last_axis(level_.group, space_, level_.m, kernel_.forward(1, 0), level_.n.padded1());
    level_.group.barrier();
    kernel_.build(level_.epsilon);
    block_barrier();
    return sum + weighted_sum();
  }

 private:
  DEVICE T weighted_sum() {
    return first_axis(space_, kernel_.forward(0, level_.n.first), level_.m.n0, level_.n, shift_,
                      space_.a, space_.u)
        .mass;
  }

  const Level& level_;
  const Space<T>& space_;
  GibbsKernel<T> kernel_;
  double shift_ = 0;
};

}  // namespace
