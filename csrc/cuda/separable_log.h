// A separable cost in the log domain.
#pragma once

#include "log_sum_exp.h"

namespace {

// Entry (i, k) of a cost at i * row + k * column.
struct Entries {
  const double* data;
  int row, column;
  DEVICE double operator()(int i, int k) const { return data ? data[i * row + k * column] : 0.0; }
};

// log sum exp(x - C / epsilon) of a separable cost, axis by axis, in any range. space.x holds x.
class SeparableLog {
 public:
  // `mean` is memory that all blocks of the group see.
  DEVICE SeparableLog(const Level& level, const Space<double>& space, double* mean)
      : SeparableLog(level, space, mean, level.epsilon) {}
  DEVICE SeparableLog(const Level& level, const Space<double>& space, double* mean,
                      double epsilon)
      : level_(level), group_(level.group), x_(space.x), between_(space.between), mean_(mean),
        scale_(1.0 / epsilon) {}

  DEVICE void put(const Side& s, int i, int j, double value) const {
    x_[i * s.ld<double>() + j] = value;
  }
  DEVICE void barrier_after_put() const { block_barrier(); }

  // out(i, j, log sum, mean cost) receives the results, the mean where kMean asks for it.
  template <bool kMean, class Out>
  DEVICE void forward(Out out) const {
    const int* m = level_.args.m;
    const double* const* cost = level_.args.cost;
    apply<kMean>(level_.m, level_.n, {cost[0], m[0], 1}, {cost[1], m[1], 1}, out);
  }
  template <class Out>
  DEVICE void backward(Out out) const {
    const int* m = level_.args.m;
    const double* const* cost = level_.args.cost;
    apply<false>(level_.n, level_.m, {cost[0], 1, m[0]}, {cost[1], 1, m[1]}, out);
  }
  // Of x on the rows of `from` at the points of `to`.
  template <bool kMean, class Out>
  DEVICE void apply(const Side& from, const Side& to, const Entries& c0, const Entries& c1,
                    Out out) const {
    const int ld = stride_for<double>(from.n0);
    each_pair(from.rows, to.n1, [&](int i, int j) {
      const auto h = [&](int k) { return x_[i * from.ld<double>() + k]; };
      const auto c = [&](int k) { return c1(j, k) * scale_; };
      const double sum = log_sum_exp(from.n1, h, c);
      const int at = j * ld + from.first + i;
      for (int rank = 0; rank < group_.size(); ++rank) *group_.of(rank, between_ + at) = sum;
      if constexpr (kMean)
        mean_[at] = mean_under(from.n1, sum, h, c, [&](int k) { return c1(j, k); });
    });
    group_.barrier();
    each_pair(to.rows, to.n1, [&](int i, int j) {
      const auto h = [&](int k) { return between_[j * ld + k]; };
      const auto c = [&](int k) { return c0(to.first + i, k) * scale_; };
      const double sum = log_sum_exp(from.n0, h, c);
      double mean = 0;
      if constexpr (kMean)
        mean = mean_under(from.n0, sum, h, c, [&](int k) {
          return c0(to.first + i, k) + mean_[j * ld + k];
        });
      out(i, j, sum, mean);
    });
    group_.barrier();
  }

 private:
  const Level& level_;
  const Group& group_;
  double *x_, *between_, *mean_;
  double scale_;
};

}  // namespace
