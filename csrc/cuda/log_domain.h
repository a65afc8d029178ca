// The solve of a level in logarithms, in any range: the same iteration as in the scaling domain.
#pragma once

#include "log_sum_exp.h"
#include "solve.h"

namespace {

// Log sums in logarithms: put() writes an entry of what it sums, forward() and backward() sum.
template <class Log>
class LogSolve {
 public:
  DEVICE LogSolve(const Level& level, const Space<double>& space, double* mean, int& parity)
      : level_(level), space_(space), parity_(parity), log_(level, space, mean) {}
  LogSolve(const Level&, const Space<double>&&, double*, int&) = delete;  // it would not last

  // f and g of the level are in nats.
  DEVICE NOINLINE void operator()(Control& control, State& state) {
    level_.group.barrier();
    const Side &n = level_.n, &m = level_.m;
    const auto f = [&](int i, int j) -> double& { return level_.f[n.in_grid(i, j)]; };
    const auto g = [&](int i, int j) -> double& { return level_.g[m.in_grid(i, j)]; };
    const auto a = [&](int i, int j) { return level_.source_mass(n.in_grid(i, j)); };
    const auto b = [&](int i, int j) { return level_.target_mass(m.in_grid(i, j)); };
    for (;;) {
      const bool started = state.next == Phase::kRow;
      add(m, b, g);
      log_.template forward<false>([&](int i, int j, double sum, double) {
        space_.u[i * n.ld<double>() + j] = sum;
      });
      if (started) {
        const Marginal row = marginal(n, a, f, space_.u);
        control.mass = row.mass;
        const double cost = control.cost_every_iteration() ? transport_cost(a, f) : 0.0;
        if (control.observe(row.error + state.column_error, cost)) {
          if (control.cost_at_the_end()) control.cost = transport_cost(a, f);
          // Where there is no mass: see ScalingSolve::complete_source.
          each(n, [&](int i, int j) {
            if (a(i, j) == 0) f(i, j) = -space_.u[i * n.ld<double>() + j];
          });
          state.next = Phase::kDone;
          return;
        }
      }
      relax(n, a, f, space_.u, control.w, !started);
      add(n, a, f);
      log_.backward([&](int i, int j, double sum, double) {
        space_.v[i * m.ld<double>() + j] = sum;
      });
      relax(m, b, g, space_.v, control.w, false);
      state.next = Phase::kRow;
      state.column_error = marginal(m, b, g, space_.v).error;
      ++control.k;
    }
  }

  // log a + power f in place, for what comes after the solve.
  DEVICE void enter_source(double power) {
    const Side& n = level_.n;
    add(n, [&](int i, int j) { return level_.source_mass(n.in_grid(i, j)); },
        [&](int i, int j) { return power * level_.f[n.in_grid(i, j)]; });
  }

 private:
  struct Marginal {
    double error, mass;
  };

  // log mass + potential in place.
  template <class M, class P>
  DEVICE void add(const Side& s, M mass, P potential) {
    each(s, [&](int i, int j) { log_.put(s, i, j, log(mass(i, j)) + potential(i, j)); });
    log_.barrier_after_put();
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
  template <class M, class P>
  DEVICE void relax(const Side& s, M mass, P potential, const double* sums, double w, bool plain) {
    const double p = w, q = 2.0 - w;
    each(s, [&](int i, int j) {
      const double next = -sums[i * s.ld<double>() + j];
      if (plain || w == 1.0 || mass(i, j) == 0) {
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
    log_.template forward<true>([&](int i, int j, double sum, double mean) {
      parts[0] += a(i, j) * exp(least(f(i, j) + sum, 690.0)) * mean;
    });
    level_.group.sum(parts, parity_, total);
    return total[0];
  }

  const Level& level_;
  const Space<double>& space_;
  int& parity_;
  Log log_;
};

}  // namespace
