// Costs that depend on the last axis only through a shift, as between two rows of pixels or two
// circles of latitude.
#pragma once

#include "log_sum_exp.h"

namespace {

constexpr int kAcross = 4;            // 8 columns each, of a warp's tile
constexpr int kMargin = 8 * kAcross;  // of zeros on both sides of a row, and of a class's shifts

// Numbers between rows of an operand: the rows and positions of a fragment meet every bank once.
template <class T>
HOST_DEVICE constexpr int line_stride(int n) {
  return (n + 2 * kMargin + 31) / 32 * 32 + (sizeof(T) == 4 ? 8 : 4);
}
// Odd, so that neighbouring classes meet different banks.
HOST_DEVICE constexpr int table_stride(int n, int m) {
  return (2 * kMargin + padded(n) + padded(m)) | 1;
}

// Products with exp(-C / epsilon), times exp(shift). For a shift s of positions,
//   out(r, o) += sum_q k(class(r, q), s) x(q, o - s)
// is a product of matrices; all shifts add up in registers. space.x holds the operand, all of its
// rows in every block, space.between S and space.kernel[0] the table.
template <class T>
class LineProduct {
 public:
  static constexpr bool kOperandStays = true;

  DEVICE LineProduct(const Level& level, const Space<T>& space) : level_(level), space_(space) {}

  DEVICE double build() {
    shift_ = factor_shift<T>(level_.facts.largest[0], level_.epsilon);
    const double scale = -1.0 / level_.epsilon;
    for_entries([&](T* entry, double cost, bool inside) {
      *entry = inside ? as_operand(T(exp(T(cost * scale + shift_)))) : T(0);
    });
    return shift_;
  }
  DEVICE T* sums() const { return space_.between; }
  DEVICE void clear(const Side& s) const {
    for (int i = thread(); i < s.padded0() * line_stride<T>(s.n1); i += threads()) space_.x[i] = 0;
  }
  DEVICE void put(const Side& s, int i, int j, T value) const {
    T* const own = space_.x + (s.first + i) * line_stride<T>(s.n1) + kMargin + j;
    for (int rank = 0; rank < level_.group.size(); ++rank)
      *level_.group.of(rank, own) = as_operand(value);
  }
  DEVICE void barrier_after_put() const { level_.group.barrier(); }

  DEVICE NOINLINE Parts<T> operator()(bool forward, const T* mass, const T* old) {
    const Side &from = forward ? level_.m : level_.n, &to = forward ? level_.n : level_.m;
    Collector<T> collect(to, space_.between, shift_, mass, old);
    if (space_.x_shared && space_.kernel_shared[0])
      multiply_lines(forward, from, to, in_shared(space_.kernel[0]), in_shared(space_.x), collect);
    else
      multiply_lines(forward, from, to, space_.kernel[0], space_.x, collect);
    return collect.parts;
  }

  // This thread's part of <C, P> right after a product forward.
  template <class Enter>
  DEVICE T cost(Enter) {
    for_entries([](T* entry, double cost, bool inside) {
      if (inside) *entry = as_operand(T(double(*entry) * cost));
    });
    block_barrier();
    return (*this)(true, space_.a, space_.u).mass;
  }

 private:
  DEVICE int stride() const { return table_stride(level_.n.n1, level_.m.n1); }
  template <class F>
  DEVICE void for_entries(F f) {
    const LineArguments& lines = level_.lines;
    for (int c = warp(); c < lines.classes; c += warps())
      for (int e = lane(); e < stride(); e += kWarp) {
        const int at = e - kMargin;
        const bool inside = at >= 0 && at < lines.length;
        f(space_.kernel[0] + c * stride() + e, inside ? lines.table[c * lines.length + at] : 0.0,
          inside);
      }
  }

  DEVICE void multiply_lines(bool forward, const Side& from, const Side& to, const T* table,
                             const T* x, Collector<T>& collect) const {
    constexpr int columns = 8 * kAcross;
    const int across = (to.padded1() + columns - 1) / columns;
    const bool large = to.padded_rows / 32 * across >= warps();
    const int rows = large ? 32 : 16, count = (to.padded_rows + rows - 1) / rows * across;
    for (int i = warp(); i < count; i += warps()) {
      const int row = i / across * rows, column = i % across * columns;
      if (large)
        tile<2>(forward, from, to, table, x, row, column, collect);
      else
        tile<1>(forward, from, to, table, x, row, column, collect);
    }
  }

  // 16 Tiles rows and 8 kAcross columns of the result. Eight shifts on, 8 columns of the operand
  // are those that were beside them: only the first 8 are loaded for each shift.
  template <int Tiles>
  DEVICE void tile(bool forward, const Side& from, const Side& to, const T* table, const T* x,
                   int row, int column, Collector<T>& collect) const {
    const int g = lane() / 4, t = lane() % 4, ld = line_stride<T>(from.n1);
    const int direction = forward ? 1 : -1, first = column - from.n1 + 1;
    T c[Tiles][kAcross][4] = {};
    for (int q = 0; q < from.n0; q += 8) {
      const T* k[Tiles][4];  // of shift 0
#pragma unroll
      for (int r = 0; r < Tiles; ++r)
#pragma unroll
        for (int slot = 0; slot < 4; ++slot) {
          const int i = to.first + row + 16 * r + g + 8 * (slot % 2), p = q + t + 4 * (slot / 2);
          k[r][slot] = table + class_between(forward, i, p, from, to) * stride() + kMargin +
                       level_.m.n1 - 1;
        }
      const T* const low = x + (q + t) * ld + kMargin + column + g;
      const T* const high = low + 4 * ld;
      for (int residue = 0; residue < 8; ++residue) {
        T b[kAcross][2] = {};
        for (int s = first + residue; s < column + 8 * kAcross; s += 8) {
#pragma unroll
          for (int n = kAcross - 1; n > 0; --n) b[n][0] = b[n - 1][0], b[n][1] = b[n - 1][1];
          b[0][0] = low[-s], b[0][1] = high[-s];
          T a[Tiles][4];
#pragma unroll
          for (int r = 0; r < Tiles; ++r)
#pragma unroll
            for (int slot = 0; slot < 4; ++slot) a[r][slot] = k[r][slot][direction * s];
#pragma unroll
          for (int n = 0; n < kAcross; ++n) {
            if (s < first + 8 * n || s >= column + 8 * n + 8) continue;  // all zeros
#pragma unroll
            for (int r = 0; r < Tiles; ++r) multiply(c[r][n], a[r], b[n]);
          }
        }
      }
    }
#pragma unroll
    for (int r = 0; r < Tiles; ++r)
#pragma unroll
      for (int n = 0; n < kAcross; ++n) {
        const int i = row + 16 * r + g, j = column + 8 * n + 2 * t;
        if (row + 16 * r >= to.padded_rows || column + 8 * n >= to.padded1()) continue;
        collect(i, j, c[r][n][0], c[r][n][1]);
        collect(i + 8, j, c[r][n][2], c[r][n][3]);
      }
  }
  // Rows beyond the last meet zeros, or are not looked at.
  DEVICE int class_between(bool forward, int to_row, int from_row, const Side& from,
                           const Side& to) const {
    if (to_row >= to.n0 || from_row >= from.n0) return 0;
    const int r = forward ? to_row : from_row, q = forward ? from_row : to_row;
    return level_.lines.class_of[r * level_.m.n0 + q];
  }

  const Level& level_;
  const Space<T>& space_;
  double shift_ = 0;
};

// log sum exp(x - C / epsilon) in any range; space.x holds x as above.
class LineLog {
 public:
  DEVICE LineLog(const Level& level, const Space<double>& space, double*)
      : level_(level), x_(space.x), scale_(1.0 / level.epsilon) {}

  DEVICE void put(const Side& s, int i, int j, double value) const {
    double* const own = x_ + (s.first + i) * line_stride<double>(s.n1) + j;
    for (int rank = 0; rank < level_.group.size(); ++rank) *level_.group.of(rank, own) = value;
  }
  DEVICE void barrier_after_put() const { level_.group.barrier(); }

  // out(i, j, log sum, mean cost) receives the results, the mean where kMean asks for it.
  template <bool kMean, class Out>
  DEVICE void forward(Out out) const {
    apply<kMean>(level_.m, level_.n, out,
                 [this](int r, int j, int q, int l) { return cost(r, j, q, l); });
  }
  template <class Out>
  DEVICE void backward(Out out) const {
    apply<false>(level_.n, level_.m, out,
                 [this](int q, int l, int r, int j) { return cost(r, j, q, l); });
  }

 private:
  DEVICE double cost(int r, int j, int q, int l) const {
    const LineArguments& lines = level_.lines;
    const int c = lines.class_of[r * level_.m.n0 + q];
    return lines.table[c * lines.length + j - l + level_.m.n1 - 1];
  }
  // between(row and position of the result, row and position of x)
  template <bool kMean, class Out, class Cost>
  DEVICE void apply(const Side& from, const Side& to, Out out, Cost between) const {
    const int ld = line_stride<double>(from.n1), n1 = from.n1;
    each_pair(to.rows, to.n1, [&](int i, int j) {
      const auto h = [&](int k) { return x_[k / n1 * ld + k % n1]; };
      const auto value = [&](int k) { return between(to.first + i, j, k / n1, k % n1); };
      const auto c = [&](int k) { return value(k) * scale_; };
      const double sum = log_sum_exp(from.n0 * n1, h, c);
      out(i, j, sum, kMean ? mean_under(from.n0 * n1, sum, h, c, value) : 0.0);
    });
    level_.group.barrier();
  }

  const Level& level_;
  double* x_;
  double scale_;
};

}  // namespace
