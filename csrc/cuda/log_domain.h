// The solve of a level in logarithms, in any range: the same iteration as in the scaling domain.
#pragma once

#include "solve.h"

namespace {

// log sum_k exp(h(k) - c(k)) over k < count, in two passes.
template <class H, class C>
DEVICE double log_sum_exp(int count, H h, C c) {
  double top = -1e300;  // finite: an empty sum gives -inf below
  for (int k = 0; k < count; ++k) top = most(top, h(k) - c(k));
  double sum = 0;
  for (int k = 0; k < count; ++k) sum += exp(h(k) - c(k) - top);
  return top + log(sum);
}
// The mean of value(k) under the weights of that sum.
template <class H, class C, class V>
DEVICE double mean_under(int count, double sum, H h, C c, V value) {
  double mean = 0;
  if (sum > -kInf)
    for (int k = 0; k < count; ++k) mean += exp(h(k) - c(k) - sum) * value(k);
  return mean;
}

// Entry (i, k) of a cost at i * row + k * column.
struct Entries {
  const double* data;
  int row, column;
  DEVICE double operator()(int i, int k) const { return data ? data[i * row + k * column] : 0.0; }
};

// Sums over both axes of a cost, from rows of one side to rows of the other.
class LogKernel {
 public:
  // `mean` is memory that all blocks of the group see.
  DEVICE LogKernel(const Group& group, double* x, double* between, double* mean, double epsilon)
      : group_(group), x_(x), between_(between), mean_(mean), scale_(1.0 / epsilon) {}

  // x, rows of `from`, becomes log sum exp(x - C / epsilon), rows of `to`. With kMean, x stays and
  // out(i, j, log sum, mean cost) receives the results.
  template <bool kMean, class Out>
  DEVICE void apply(const Side& from, const Side& to, const Entries& c0, const Entries& c1,
                    Out out) {
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
  template <class F>
  DEVICE static void each_pair(int rows, int columns, F f) {
    for (int i = thread(); i < rows * columns; i += threads()) f(i / columns, i % columns);
  }

  const Group& group_;
  double *x_, *between_, *mean_;
  double scale_;
};

class LogSolve {
 public:
  DEVICE LogSolve(const Level& level, const Space<double>& space, double* mean, int& parity)
      : level_(level), space_(space), parity_(parity),
        kernel_(level.group, space.x, space.between, mean, level.epsilon) {}

  // f and g of the level are in nats.
  DEVICE NOINLINE void operator()(Control& control, State& state) {
    level_.group.barrier();
    const Side &n = level_.n, &m = level_.m;
    const auto f = [&](int i, int j) -> double& { return level_.f[n.in_grid(i, j)]; };
    const auto g = [&](int i, int j) -> double& { return level_.g[m.in_grid(i, j)]; };
    const auto a = [&](int i, int j) {
      return level_.mass(level_.a, n.in_grid(i, j)) * level_.scale_a;
    };
    const auto b = [&](int i, int j) {
      return level_.mass(level_.b, m.in_grid(i, j)) * level_.scale_b;
    };
    for (;;) {
      const bool started = state.next == Phase::kRow;
      add(m, b, g);
      forward<false>([&](int i, int j, double sum, double) { space_.u[i * n.ld<double>() + j] = sum; });
      if (started) {
        const Marginal row = marginal(n, a, f, space_.u);
        control.mass = row.mass;
        const double cost = control.cost_every_iteration() ? transport_cost(a, f) : 0.0;
        if (control.observe(row.error + state.column_error, cost)) {
          if (control.cost_at_the_end()) control.cost = transport_cost(a, f);
          state.next = Phase::kDone;
          return;
        }
      }
      relax(n, f, space_.u, control.w, !started);
      add(n, a, f);
      backward([&](int i, int j, double sum, double) { space_.v[i * m.ld<double>() + j] = sum; });
      relax(m, g, space_.v, control.w, false);
      state.next = Phase::kRow;
      state.column_error = marginal(m, b, g, space_.v).error;
      ++control.k;
    }
  }

  // x = log a + f, for what comes after the solve.
  DEVICE void weighted_source() {
    add(level_.n,
        [&](int i, int j) { return level_.mass(level_.a, level_.n.in_grid(i, j)) * level_.scale_a; },
        [&](int i, int j) { return level_.f[level_.n.in_grid(i, j)]; });
  }

 private:
  struct Marginal {
    double error, mass;
  };

  // x = log mass + potential.
  template <class M, class P>
  DEVICE void add(const Side& s, M mass, P potential) {
    each(s, [&](int i, int j) { space_.x[i * s.ld<double>() + j] = log(mass(i, j)) + potential(i, j); });
    block_barrier();
  }
  template <bool kMean, class Out>
  DEVICE void forward(Out out) {
    const int *n = level_.args.n, *m = level_.args.m;
    const Entries c0{level_.args.cost[0], m[0], 1}, c1{level_.args.cost[1], m[1], 1};
    (void)n;
    kernel_.template apply<kMean>(level_.m, level_.n, c0, c1, out);
  }
  template <class Out>
  DEVICE void backward(Out out) {
    const int* m = level_.args.m;
    const Entries c0{level_.args.cost[0], 1, m[0]}, c1{level_.args.cost[1], 1, m[1]};
    kernel_.template apply<false>(level_.n, level_.m, c0, c1, out);
  }
  template <class M, class P>
  DEVICE Marginal marginal(const Side& s, M mass, P potential, const double* sums) {
    double parts[kSums] = {}, total[kSums];
    each(s, [&](int i, int j) {
      const double r = exp(least(potential(i, j) + sums[i * s.ld<double>() + j], 690.0));
      parts[0] += mass(i, j) * fabs(r - 1.0);
      parts[1] += mass(i, j) * r;
    });
    level_.group.sum(parts, parity_, total);
    return {total[0], total[1]};
  }
  template <class P>
  DEVICE void relax(const Side& s, P potential, const double* sums, double w, bool plain) {
    const double p = w, q = 2.0 - w;
    each(s, [&](int i, int j) {
      const double next = -sums[i * s.ld<double>() + j];
      if (plain || w == 1.0) {
        potential(i, j) = next;
        return;
      }
      const double r = exp(most(least(potential(i, j) - next, 690.0), -690.0));
      potential(i, j) = next + log((p + q * r) / (q + p * r));
    });
    block_barrier();
  }
  template <class M, class P>
  DEVICE double transport_cost(M a, P f) {
    double parts[kSums] = {}, total[kSums];
    forward<true>([&](int i, int j, double sum, double mean) {
      parts[0] += a(i, j) * exp(least(f(i, j) + sum, 690.0)) * mean;
    });
    level_.group.sum(parts, parity_, total);
    return total[0];
  }

  const Level& level_;
  const Space<double>& space_;
  int& parity_;
  LogKernel kernel_;
};

}  // namespace
