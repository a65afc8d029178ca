// The Sinkhorn solve of one problem on a separable cost.
//
// Potentials are relative to the marginals: P(x, y) = a(x) b(y) exp((f(x) + g(y) - C(x, y)) / eps).
// One iteration updates f, then g. A solve runs in the scaling domain (u = exp(f/eps), matrix
// products only) while every sum stays inside (kTiny, kHuge), and goes on in the log domain,
// from where it is, once one does not.
#pragma once

#include "log_kernel.h"

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
  // factor / S
  Vec next(Vec S, Vec s) const { return (p + q * s) * reciprocal(S * (q + p * s)); }
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
  Buffer u, u_next, au, au_next, v, v_next, bv;
  Buffer S, T;  // kernel sums

  explicit Workspace(const Geometry& geo) {
    for (Buffer* x : {&a, &f, &u, &u_next, &au, &au_next, &S}) x->resize(geo.n.size());
    for (Buffer* x : {&b, &g, &v, &v_next, &bv, &T}) x->resize(geo.m.size());
  }
};

enum class Phase { kStart, kRow, kColumn, kDone };

// Where a solve stands: nothing done yet, before the update of f, before that of g. Potentials are
// in the workspace's f and g, or as scalings at these pointers; bv always belongs to v.
struct State {
  Phase next = Phase::kStart;
  bool scaled = false;
  double column_error = kInf;
  double *u, *u_next, *au, *au_next, *v, *v_next;

  explicit State(Workspace& p)
      : u(p.u.data()), u_next(p.u_next.data()), au(p.au.data()), au_next(p.au_next.data()),
        v(p.v.data()), v_next(p.v_next.data()) {}
};

// Scalings to potentials.
inline void to_potentials(Team& team, Workspace& p, State& state) {
  if (!state.scaled) return;
  const auto log_of = [&](const double* x, Buffer& out) {
    const auto [from, to] = team.share(out.size(), W);
    for (int64_t i = from; i < to; i += W) store(&out[i], vlog(load(x + i)));
  };
  if (state.next != Phase::kStart) log_of(state.u, p.f);
  log_of(state.v, p.g);
  state.scaled = false;
  team.barrier();
}

struct Update {
  double before = 0, after = 0;  // marginal error
  double mass = 0;               // of the plan, before
  double low = kInf, high = 0;   // of the sums
  bool in_range() const { return low > kTiny && high < kHuge; }
};

// The update of one side from S = K (mass * scaling of the other side); old is null on the first.
inline Update scale(Team& team, int64_t size, const double* S, const double* mass,
                    const double* old, double w, double* out, double* weighted) {
  const Relaxation relax(w);
  Vec low = splat(kInf), high = splat(0.0), before{}, after{}, mass_before{};
  const auto [from, to] = team.share(size, W);
  for (int64_t i = from; i < to; i += W) {
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
      next = reciprocal(s);
    }
    store(out + i, next);
    store(weighted + i, m * next);
  }
  const Update mine{hsum(before), w == 1.0 ? 0.0 : hsum(after), hsum(mass_before), hmin(low),
                    hmax(high)};
  return team.combine(mine, [](const Update& x, const Update& y) {
    return Update{x.before + y.before, x.after + y.after, x.mass + y.mass,
                  std::min(x.low, y.low), std::max(x.high, y.high)};
  });
}

// Potentials to scalings, where these are in range.
inline void to_scalings(Team& team, const Geometry& geo, Workspace& p, State& state) {
  Vec low = splat(kInf), high = splat(-kInf);  // padding repeats an entry
  const auto [from, to] = team.share(geo.m.size(), W);
  for (int64_t i = from; i < to; i += W) {
    low = vmin(low, load(&p.g[i]));
    high = vmax(high, load(&p.g[i]));
  }
  const double lo = team.combine(hmin(low), [](double x, double y) { return std::min(x, y); });
  const double hi = team.combine(hmax(high), [](double x, double y) { return std::max(x, y); });
  if (!(hi - lo < 600.0)) return;
  for (int64_t i = from; i < to; i += W) {
    const Vec x = vexp(load(&p.g[i]) - 0.5 * (hi + lo));
    store(state.v + i, x);
    store(&p.bv[i], x * load(&p.b[i]));
  }
  state.scaled = true;
  team.barrier();
}

// Scaling domain. Returns when the problem is done, or with the last state in range.
inline void solve_scaling(Team& team, const Geometry& geo, Workspace& p, ScalingKernel& kernel,
                          Control& control, State& state) {
  const int64_t n = geo.n.size(), m = geo.m.size();
  ScalingKernel::Trace forward, backward;
  for (;;) {
    const bool started = state.next == Phase::kRow;
    kernel.forward(team, p.bv.data(), p.S.data(), forward);
    const auto update_f = [&] {
      return scale(team, n, p.S.data(), p.a.data(), started ? state.u : nullptr, control.w,
                   state.u_next, state.au_next);
    };
    const double w = control.w;
    const Update row = update_f();
    if (!row.in_range()) return;
    if (started) {
      control.mass = row.mass;
      const bool each = control.cost_every_iteration();
      const double cost = each ? kernel.cost(team, forward, backward) : 0.0;
      if (control.observe(row.before + state.column_error, cost)) {
        if (control.cost_at_the_end()) control.cost = kernel.cost(team, forward, backward);
        state.next = Phase::kDone;
        return;
      }
      if (control.w != w) update_f();
    }
    std::swap(state.u, state.u_next);
    std::swap(state.au, state.au_next);
    state.next = Phase::kColumn;

    kernel.backward(team, state.au, p.T.data(), backward);
    const Update column = scale(team, m, p.T.data(), p.b.data(), state.v, control.w, state.v_next,
                                p.bv.data());
    if (!column.in_range()) return;
    std::swap(state.v, state.v_next);
    state.next = Phase::kRow;
    state.column_error = column.after;
    ++control.k;
  }
}

// Log domain; the same iteration in logarithms. A solve that left the other domain between f and
// g takes its update of f again, which changes nothing where the weight is 1.
class LogSolver {
 public:
  LogSolver(const Geometry& geo, double epsilon) : kernel_(geo, epsilon) {
    for (Buffer* x : {&la_, &k_, &L_, &mean_}) x->resize(geo.n.size());
    for (Buffer* x : {&lb_, &h_, &M_}) x->resize(geo.m.size());
  }

  void operator()(Team& team, Workspace& p, Control& control, State& state) {
    each(team, la_, [&](int64_t i) { store(&la_[i], vlog(load(&p.a[i]))); });
    each(team, lb_, [&](int64_t i) { store(&lb_[i], vlog(load(&p.b[i]))); });
    for (;;) {
      const bool started = state.next == Phase::kRow;
      add(team, p.g, lb_, h_);
      kernel_.forward(team, h_.data(), L_.data());
      if (started) {
        const Marginal row = marginal(team, p.a, p.f, L_);
        control.mass = row.mass;
        const double cost = control.cost_every_iteration() ? transport_cost(team, p) : 0.0;
        if (control.observe(row.error + state.column_error, cost)) {
          if (control.cost_at_the_end()) control.cost = transport_cost(team, p);
          state.next = Phase::kDone;
          return;
        }
      }
      relax(team, p.f, L_, control.w, !started);

      add(team, p.f, la_, k_);
      kernel_.backward(team, k_.data(), M_.data());
      relax(team, p.g, M_, control.w, false);
      state.next = Phase::kRow;
      state.column_error = marginal(team, p.b, p.g, M_).error;
      ++control.k;
    }
  }

 private:
  struct Marginal {
    double error, mass;
  };

  template <class F>
  static void each(Team& team, const Buffer& x, F f) {
    const auto [from, to] = team.share(x.size(), W);
    for (int64_t i = from; i < to; i += W) f(i);
    team.barrier();
  }
  static void add(Team& team, const Buffer& x, const Buffer& y, Buffer& out) {
    each(team, x, [&](int64_t i) { store(&out[i], load(&x[i]) + load(&y[i])); });
  }
  static Vec ratio(const Buffer& x, const Buffer& l, int64_t i) {
    return vexp(vmin(load(&x[i]) + load(&l[i]), splat(690.0)));
  }
  // Marginal error of a side whose potential is x and whose log-sum is l, and the plan's mass.
  static Marginal marginal(Team& team, const Buffer& mass, const Buffer& x, const Buffer& l) {
    Vec error{}, sum{};
    each(team, x, [&](int64_t i) {
      const Vec m = load(&mass[i]), r = ratio(x, l, i);
      error += m * vabs(r - 1.0);
      sum += m * r;
    });
    return team.combine(Marginal{hsum(error), hsum(sum)}, [](Marginal p, Marginal q) {
      return Marginal{p.error + q.error, p.mass + q.mass};
    });
  }
  static void relax(Team& team, Buffer& x, const Buffer& l, double w, bool plain) {
    const Relaxation r(w);
    each(team, x, [&](int64_t i) {
      const Vec next = -load(&l[i]);
      const Vec s = vexp(vmax(vmin(load(&x[i]) - next, splat(690.0)), splat(-690.0)));
      store(&x[i], plain || w == 1.0 ? next : next + vlog(r.factor(s)));
    });
  }
  double transport_cost(Team& team, const Workspace& p) {
    kernel_.forward_mean(team, h_.data(), L_.data(), mean_.data());
    Vec total{};
    each(team, mean_,
         [&](int64_t i) { total += load(&p.a[i]) * ratio(p.f, L_, i) * load(&mean_[i]); });
    return team.sum(hsum(total));
  }

  LogKernel kernel_;
  Buffer la_, lb_, h_, k_, L_, M_, mean_;
};

// All iterations of one problem, with the kernel of the last epsilon kept.
class Solver {
 public:
  explicit Solver(const Geometry& geo) : geo_(geo) {}

  // p holds the masses, and the start g in nats or scaled with its bv.
  Control operator()(Team& team, Workspace& p, double epsilon, const Options& options,
                     State& state) {
    const double range = geo_.max_cost / epsilon;
    Control control(options, range);
    if (range < 1200.0 && !state.scaled) to_scalings(team, geo_, p, state);
    if (range < 1200.0 && state.scaled) {  // beyond, the sums leave the range at once
      if (!kernel_ || kernel_->epsilon() != epsilon)
        team.once([&] { kernel_.emplace(geo_, epsilon); });
      solve_scaling(team, geo_, p, *kernel_, control, state);
      if (state.next == Phase::kDone) return control;
    }
    to_potentials(team, p, state);
    team.once([&] { log_.emplace(geo_, epsilon); });
    (*log_)(team, p, control, state);
    return control;
  }

 private:
  const Geometry& geo_;
  std::optional<ScalingKernel> kernel_;
  std::optional<LogSolver> log_;
};

}  // namespace
