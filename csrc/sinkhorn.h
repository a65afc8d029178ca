// The Sinkhorn solve of one problem on a separable cost.
//
// Potentials are relative to the marginals: P(x, y) = a(x) b(y) exp((f(x) + g(y) - C(x, y)) / eps).
// One iteration updates f, then g. A solve runs in the scaling domain (u = exp(f/eps), matrix
// products only) while every sum stays inside (kTiny, kHuge), and goes on in the log domain,
// from where it is, once one does not.
#pragma once

#include "separable.h"

namespace {

enum Criterion { kMarginal = 0, kCost = 1, kMarginalNoCost = 2 };

struct Options {
  double tol;
  int criterion;
  int max_iter;
  double overrelaxation;  // 0: chosen per problem
};

// Overrelaxation in logarithms is log(new) + (w - 1) (log(new) - log(old)). With r = new / old,
// r^(w-1) is replaced by the rational (p r + q) / (q r + p), p = w, q = 2 - w, which agrees to
// third order at r = 1 and stays within [q/p, p/q]: no power function, and far from the solution
// a damped step instead of an overshoot.
struct Relaxation {
  Vec p, q;
  explicit Relaxation(double w) : p(splat(w)), q(splat(2.0 - w)) {}
  Vec factor(Vec s) const { return (p + q * s) / (q + p * s); }  // s = 1 / r
  Vec next(Vec S, Vec s) const { return (p + q * s) / (S * (q + p * s)); }  // factor / S
};

// Weight and stopping of one problem. The weight follows successive-overrelaxation theory: from
// the error's rate over four iterations comes the rate of the plain iteration, and from that the
// best weight. An error that grows fourfold over its best resets the weight to 1.
class Control {
 public:
  Control(const Options& opt, double range) : opt_(opt), adaptive_(opt.overrelaxation == 0.0) {
    const double rate = range / (range + 25.0);
    w = adaptive_ ? std::min(1.7, 2.0 / (1.0 + std::sqrt(1.0 - rate))) : opt.overrelaxation;
  }
  double w;
  int k = 0;  // completed iterations
  double error = kInf, cost = 0, mass = 1;
  bool converged = false;

  bool cost_every_iteration() const { return opt_.criterion == kCost; }
  bool cost_at_the_end() const { return opt_.criterion == kMarginal; }

  // Called once per completed iteration; true when the problem is solved or out of iterations.
  bool observe(double new_error, double new_cost) {
    if (opt_.criterion != kCost)
      converged = new_error < opt_.tol;
    else
      converged = k > 1 && std::abs(new_cost - cost) < opt_.tol * std::abs(new_cost);
    error = new_error;
    cost = new_cost;
    if (adaptive_ && !converged) adapt();
    return converged || k >= opt_.max_iter;
  }

 private:
  void adapt() {
    best_ = std::min(best_, error);
    if (w > 1.0 && error > 4.0 * best_) {
      cap_ = 1.0 + 0.8 * (w - 1.0);
      w = 1.0;
      best_ = error;
    }
    if (k % 4 != 1) return;
    if (k > 1) {
      const double rho = std::pow(error / anchor_, 0.25);
      if (rho <= 1.05 * (w - 1.0)) {
        w = 1.0 + 0.8 * (w - 1.0);  // past the optimum the error falls as (w - 1)^k
      } else if (rho < 1.0) {
        const double r = std::min(std::max(rho, 1e-6), 0.9999);
        const double plain = std::min((r + w - 1.0) * (r + w - 1.0) / (r * w * w), 0.9999);
        w = 0.5 * (w + 2.0 / (1.0 + std::sqrt(1.0 - plain)));
      }
      w = std::min(w, cap_);
    }
    anchor_ = error;
  }

  Options opt_;
  bool adaptive_;
  double cap_ = 1.95, best_ = kInf, anchor_ = kInf;
};

// Arrays of one problem; reused from problem to problem.
struct Workspace {
  Buffer a, b;  // masses, padded with zeros
  Buffer f, g;  // potentials in nats, padded
  Buffer S, u, u_next, au, cost;
  Buffer T, v, v_next, bv;

  explicit Workspace(const Geometry& geo) {
    for (Buffer* x : {&a, &f, &S, &u, &u_next, &au, &cost}) x->resize(geo.n.size());
    for (Buffer* x : {&b, &g, &T, &v, &v_next, &bv}) x->resize(geo.m.size());
  }
};

struct Update {
  double before, after;  // marginal error
  double mass;           // of the plan, before
  bool in_range;
};

// The update of one side from S = K (mass * scaling of the other side); old is null on the first.
Update scale(int64_t size, const double* S, const double* mass, const double* old, double w,
             double* out, double* weighted) {
  const Relaxation relax(w);
  Vec low = splat(kInf), high = splat(0.0), before{}, after{}, mass_before{};
  for (int64_t i = 0; i < size; i += W) {
    const Vec s = load(S + i), m = load(mass + i);
    low = vmin(low, s);
    high = vmax(high, s);
    Vec next;
    if (old) {
      const Vec ratio = vmin(load(old + i) * s, splat(1e20));  // keeps products finite
      before += m * vabs(ratio - 1.0);
      mass_before += m * ratio;
      next = relax.next(s, ratio);
      after += m * vabs(next * s - 1.0);
    } else {
      next = 1.0 / s;
    }
    store(out + i, next);
    store(weighted + i, m * next);
  }
  const bool in_range = hmin(low) > kTiny && hmax(high) < kHuge;
  return {hsum(before), w == 1.0 ? 0.0 : hsum(after), hsum(mass_before), in_range};
}

enum class Phase { kStart, kRow, kColumn, kDone };

// Where an iteration stands: nothing done yet, before the update of f, before that of g.
struct State {
  Phase next = Phase::kStart;
  double column_error = kInf;
};

// Scaling domain. Returns when the problem is done, or with the last state in range.
void solve_scaling(const Geometry& geo, Workspace& p, ScalingKernel& kernel, Control& control,
                   State& state) {
  const Shape &n = geo.n, &m = geo.m;
  Vec low = splat(kInf), high = splat(-kInf);  // padding repeats an entry
  for (int64_t i = 0; i < m.size(); i += W) {
    low = vmin(low, load(&p.g[i]));
    high = vmax(high, load(&p.g[i]));
  }
  const double lo = hmin(low), hi = hmax(high), shift = 0.5 * (hi + lo);
  if (!(hi - lo < 600.0)) return;
  for (int64_t i = 0; i < m.size(); i += W) {
    const Vec x = vexp(load(&p.g[i]) - shift);
    store(&p.v[i], x);
    store(&p.bv[i], x * load(&p.b[i]));
  }
  const auto to_log = [&] {
    if (state.next != Phase::kStart)
      for (int64_t i = 0; i < n.size(); i += W) store(&p.f[i], vlog(load(&p.u[i])) - shift);
    for (int64_t i = 0; i < m.size(); i += W) store(&p.g[i], vlog(load(&p.v[i])) + shift);
  };
  const auto transport_cost = [&] {
    kernel.cost_after_forward(p.bv.data(), p.cost.data());
    Vec total{};
    for (int64_t i = 0; i < n.size(); i += W)
      total += load(&p.a[i]) * load(&p.u[i]) * load(&p.cost[i]);
    return hsum(total);
  };

  for (;;) {
    const bool started = state.next == Phase::kRow;
    kernel.forward(p.bv.data(), p.S.data());
    const auto update_f = [&] {
      return scale(n.size(), p.S.data(), p.a.data(), started ? p.u.data() : nullptr, control.w,
                   p.u_next.data(), p.au.data());
    };
    const double w = control.w;
    const Update row = update_f();
    if (!row.in_range) return to_log();
    if (started) {
      control.mass = row.mass;
      const double cost = control.cost_every_iteration() ? transport_cost() : 0.0;
      if (control.observe(row.before + state.column_error, cost)) {
        if (control.cost_at_the_end()) control.cost = transport_cost();
        to_log();
        state.next = Phase::kDone;
        return;
      }
      if (control.w != w) update_f();
    }
    p.u.swap(p.u_next);
    state.next = Phase::kColumn;

    kernel.backward(p.au.data(), p.T.data());
    const Update column = scale(m.size(), p.T.data(), p.b.data(), p.v.data(), control.w,
                                p.v_next.data(), p.bv.data());
    if (!column.in_range) return to_log();
    p.v.swap(p.v_next);
    state = {Phase::kRow, column.after};
    ++control.k;
  }
}

// Log domain; the same iteration in logarithms. A solve that left the other domain between f and
// g takes its update of f again, which changes nothing where the weight is 1.
void solve_log(const Geometry& geo, Workspace& p, double epsilon, Control& control, State state,
               int threads) {
  const Shape &n = geo.n, &m = geo.m;
  LogKernel kernel(geo, epsilon, threads);
  Buffer la(n.size()), lb(m.size()), h(m.size()), k(n.size()), L(n.size()), M(m.size());
  Buffer mean(n.size());
  for (int64_t i = 0; i < n.size(); i += W) store(&la[i], vlog(load(&p.a[i])));
  for (int64_t i = 0; i < m.size(); i += W) store(&lb[i], vlog(load(&p.b[i])));

  const auto add = [](const Buffer& x, const Buffer& y, Buffer& out) {
    for (size_t i = 0; i < out.size(); i += W) store(&out[i], load(&x[i]) + load(&y[i]));
  };
  // Marginal error of a side whose potential is x and whose log-sum is l, and the plan's mass.
  const auto marginal = [](const Buffer& mass, const Buffer& x, const Buffer& l, double& total) {
    Vec error{}, sum{};
    for (size_t i = 0; i < x.size(); i += W) {
      const Vec m = load(&mass[i]);
      const Vec ratio = vexp(vmin(load(&x[i]) + load(&l[i]), splat(690.0)));
      error += m * vabs(ratio - 1.0);
      sum += m * ratio;
    }
    total = hsum(sum);
    return hsum(error);
  };
  const auto relax = [](Buffer& x, const Buffer& l, double w, bool plain) {
    const Relaxation r(w);
    for (size_t i = 0; i < x.size(); i += W) {
      const Vec next = -load(&l[i]);
      const Vec s = vexp(vmax(vmin(load(&x[i]) - next, splat(690.0)), splat(-690.0)));
      store(&x[i], plain || w == 1.0 ? next : next + vlog(r.factor(s)));
    }
  };
  const auto transport_cost = [&] {
    kernel.forward_mean(h.data(), L.data(), mean.data());
    Vec total{};
    for (int64_t i = 0; i < n.size(); i += W) {
      const Vec ratio = vexp(vmin(load(&p.f[i]) + load(&L[i]), splat(690.0)));
      total += load(&p.a[i]) * ratio * load(&mean[i]);
    }
    return hsum(total);
  };

  double column_mass;
  for (;;) {
    const bool started = state.next == Phase::kRow;
    add(p.g, lb, h);
    kernel.forward(h.data(), L.data());
    if (started) {
      const double row_error = marginal(p.a, p.f, L, control.mass);
      const double cost = control.cost_every_iteration() ? transport_cost() : 0.0;
      if (control.observe(row_error + state.column_error, cost)) {
        if (control.cost_at_the_end()) control.cost = transport_cost();
        return;
      }
    }
    relax(p.f, L, control.w, !started);

    add(p.f, la, k);
    kernel.backward(k.data(), M.data());
    relax(p.g, M, control.w, false);
    state = {Phase::kRow, marginal(p.b, p.g, M, column_mass)};
    ++control.k;
  }
}

// All iterations of one problem, with the kernel of the last epsilon kept.
class Solver {
 public:
  Solver(const Geometry& geo, int threads) : geo_(geo), threads_(threads) {}

  // p holds the masses and the start g, in nats; f and g come back in nats.
  Control operator()(Workspace& p, double epsilon, const Options& options, bool& log_domain) {
    const double range = geo_.max_cost / epsilon;
    Control control(options, range);
    State state;
    if (range < 1200.0) {  // beyond, the sums leave the range at once
      if (!kernel_ || kernel_->epsilon() != epsilon) kernel_.emplace(geo_, epsilon, threads_);
      solve_scaling(geo_, p, *kernel_, control, state);
    }
    log_domain = state.next != Phase::kDone;
    if (log_domain) solve_log(geo_, p, epsilon, control, state, threads_);
    return control;
  }

 private:
  const Geometry& geo_;
  int threads_;
  std::optional<ScalingKernel> kernel_;
};

}  // namespace
