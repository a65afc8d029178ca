// The Sinkhorn solve of one problem.
//
// Potentials are relative to the marginals: P(x, y) = a(x) b(y) exp((f(x) + g(y) - C(x, y)) / eps).
// One iteration updates f, then g. A solve runs in the scaling domain (u = exp(f/eps), matrix
// products only) while every sum stays in range, and goes on in the log domain, from where it is,
// once one does not. In single precision it goes on in double from the same places, and near the
// end, where rounding would show.
#pragma once

#include <optional>
#include <tuple>

#include "../control.h"
#include "scaling.h"

namespace {

// Overrelaxation in logarithms is log(new) + (w - 1) (log(new) - log(old)). With r = new / old,
// r^(w-1) is replaced by the rational (p r + q) / (q r + p), p = w, q = 2 - w, which agrees to
// third order at r = 1 and stays within [q/p, p/q]: no power function, and far from the solution
// a damped step instead of an overshoot.
template <class T>
struct Relaxation {
  Vec<T> p, q;
  explicit Relaxation(double w) : p(splat(T(w))), q(splat(T(2.0 - w))) {}
  Vec<T> factor(Vec<T> s) const { return (p + q * s) / (q + p * s); }  // s = 1 / r
  // factor / S; the product of the divisors can overflow in single precision
  Vec<T> next(Vec<T> S, Vec<T> s) const {
    if constexpr (std::is_same_v<T, float>)
      return (p + q * s) * reciprocal(q + p * s) * reciprocal(S);
    else
      return (p + q * s) * reciprocal(S * (q + p * s));
  }
};

// Arrays of the scaling domain.
template <class T>
struct Scalings {
  Array<T> u, u_next, au, au_next, v, v_next, bv;
  Array<T> S, Z;  // kernel sums on the source and on the target

  void reserve(const Geometry& geo) {
    if (!u.empty()) return;
    for (Array<T>* x : {&u, &u_next, &au, &au_next, &S}) x->resize(size<T>(geo.n));
    for (Array<T>* x : {&v, &v_next, &bv, &Z}) x->resize(size<T>(geo.m));
  }
};

// Masses of a source and a target, padded with zeros.
template <class T>
struct Measures {
  Array<T> a, b;

  void reserve(const Geometry& geo) {
    a.resize(size<T>(geo.n));
    b.resize(size<T>(geo.m));
  }
};

// Arrays of one problem; reused from problem to problem.
class Workspace {
 public:
  Buffer f, g;  // potentials in nats, padded with the last entry of a line

  explicit Workspace(const Geometry& geo)
      : f(size<double>(geo.n)), g(size<double>(geo.m)), geo_(geo) {}

  template <class T>
  Scalings<T>& scalings() {
    return std::get<Scalings<T>>(scalings_);
  }
  // The masses of a new problem, in the precision of T.
  template <class T, class In>
  void set_measures(Team& team, const In* a, const In* b) {
    Measures<T>& own = std::get<Measures<T>>(measures_);
    team.once([&] { fresh<T>(); });
    copy_lines(team, geo_.n, a, geo_.n[2], 0.0, own.a.data());
    copy_lines(team, geo_.m, b, geo_.m[2], 0.0, own.b.data());
    team.barrier();
    if constexpr (sizeof(In) < sizeof(T)) scale_to_one(team, own);
  }
  // Room for them, filled by the one member that calls.
  template <class T>
  Measures<T>& fresh() {
    wide_ = std::is_same_v<T, double>;
    Measures<T>& own = std::get<Measures<T>>(measures_);
    own.reserve(geo_);
    return own;
  }
  template <class T>
  const Measures<T>& measures(Team& team) {
    if constexpr (std::is_same_v<T, double>)
      if (!wide_) widen(team);
    return std::get<Measures<T>>(measures_);
  }

 private:
  void widen(Team& team) {
    const auto& narrow = std::get<Measures<float>>(measures_);
    auto& wide = std::get<Measures<double>>(measures_);
    team.once([&] { wide.reserve(geo_); });
    copy_lines(team, geo_.n, narrow.a.data(), stride<float>(geo_.n), 0.0, wide.a.data());
    copy_lines(team, geo_.m, narrow.b.data(), stride<float>(geo_.m), 0.0, wide.b.data());
    team.barrier();
    scale_to_one(team, wide);
    team.once([&] { wide_ = true; });
  }
  // Masses that were rounded to single precision do not sum to 1 exactly, and two marginals of
  // unequal totals would keep a solve from converging.
  static void scale_to_one(Team& team, Measures<double>& measures) {
    for (Buffer* x : {&measures.a, &measures.b}) {
      Vec<double> sum{};
      const auto [from, to] = team.share(x->size(), W<double>);
      for (int64_t i = from; i < to; i += W<double>) sum += load(&(*x)[i]);
      const double scale = 1.0 / team.sum(hsum(sum));
      for (int64_t i = from; i < to; i += W<double>) store(&(*x)[i], load(&(*x)[i]) * scale);
    }
    team.barrier();
  }

  const Geometry& geo_;
  std::tuple<Scalings<float>, Scalings<double>> scalings_;
  std::tuple<Measures<float>, Measures<double>> measures_;
  bool wide_ = true;  // the masses are there in double precision
};

enum class Domain { kPotentials, kSingle, kDouble };
template <class T>
constexpr Domain kDomain = std::is_same_v<T, float> ? Domain::kSingle : Domain::kDouble;

// Where a solve stands, and what holds its potentials, the workspace's f and g or one of its
// scalings. Of a pair of arrays, `flip` and `flop` say which of u and u_next, of v and v_next is the
// current one.
struct State {
  Phase next = Phase::kStart;
  Domain domain = Domain::kPotentials;
  double column_error = kInf;
  double shift = 0;  // logarithm of the scale of the kernel that u belongs to
  bool flip = false, flop = false;

  template <class T>
  T* u(Scalings<T>& s) const { return (flip ? s.u_next : s.u).data(); }
  template <class T>
  T* u_next(Scalings<T>& s) const { return (flip ? s.u : s.u_next).data(); }
  template <class T>
  T* au(Scalings<T>& s) const { return (flip ? s.au_next : s.au).data(); }
  template <class T>
  T* au_next(Scalings<T>& s) const { return (flip ? s.au : s.au_next).data(); }
  template <class T>
  T* v(Scalings<T>& s) const { return (flop ? s.v_next : s.v).data(); }
  template <class T>
  T* v_next(Scalings<T>& s) const { return (flop ? s.v : s.v_next).data(); }
};

// x becomes its logarithm.
template <class T>
void take_logarithm(Team& team, int64_t size, T* x) {
  const auto [from, to] = team.share(size, W<T>);
  for (int64_t i = from; i < to; i += W<T>) store(x + i, vlog(load(x + i)));
  team.barrier();
}

// out = scale * log(x) + shift; x is overwritten with its logarithm.
template <class T>
void logarithm(Team& team, const Shape& s, T* x, double scale, double shift, double* out) {
  take_logarithm(team, size<T>(s), x);
  copy_lines(team, s, x, stride<T>(s), kRepeat, out);
  const auto [from, to] = team.share(s.lines());
  const int64_t width = stride<double>(s);
  for (int64_t i = from * width; i < to * width; i += W<double>)
    store(out + i, load(out + i) * scale + shift);
  team.barrier();
}

// bv from v.
template <class T>
void enter_scalings(Team& team, const Geometry& geo, Workspace& p, State& state) {
  Scalings<T>& s = p.scalings<T>();
  const Array<T>& b = p.measures<T>(team).b;
  const T* v = state.v(s);
  const auto [from, to] = team.share(size<T>(geo.m), W<T>);
  for (int64_t i = from; i < to; i += W<T>) store(&s.bv[i], load(v + i) * load(&b[i]));
  state.domain = kDomain<T>;
  team.barrier();
}

// Potentials to scalings, where these are in range.
template <class T>
void to_scalings(Team& team, const Geometry& geo, Workspace& p, State& state) {
  const auto [low, high] = extent(team, p.g.data(), size<double>(geo.m));
  if (!(high - low < Range<T>::spread)) return;
  Scalings<T>& s = p.scalings<T>();
  team.once([&] { s.reserve(geo); });
  T* v = state.v(s);
  copy_lines(team, geo.m, p.g.data(), stride<double>(geo.m), kRepeat, v);
  const T middle = T(0.5 * (high + low));
  const auto [first, last] = team.share(geo.m.lines());
  const int64_t width = stride<T>(geo.m);
  for (int64_t i = first * width; i < last * width; i += W<T>)
    store(v + i, vexp(load(v + i) - middle));
  team.barrier();
  enter_scalings<T>(team, geo, p, state);
}

// From single to double precision, where the solve stands.
inline void widen(Team& team, const Geometry& geo, Workspace& p, State& state) {
  Scalings<float>& single = p.scalings<float>();
  Scalings<double>& s = p.scalings<double>();
  team.once([&] { s.reserve(geo); });
  copy_lines(team, geo.m, state.v(single), stride<float>(geo.m), kRepeat, state.v(s));
  copy_lines(team, geo.n, state.u(single), stride<float>(geo.n), kRepeat, state.u(s));
  team.barrier();
  enter_scalings<double>(team, geo, p, state);
  const Buffer& a = p.measures<double>(team).a;
  const double scale = std::exp(state.shift);
  state.shift = 0;
  const auto [from, to] = team.share(size<double>(geo.n), W<double>);
  for (int64_t i = from; i < to; i += W<double>) {
    const Vec<double> u = load(state.u(s) + i) * scale;
    store(state.u(s) + i, u);
    store(state.au(s) + i, u * load(&a[i]));
  }
  team.barrier();
}

// Scalings to potentials.
inline void to_potentials(Team& team, const Geometry& geo, Workspace& p, State& state) {
  if (state.domain == Domain::kPotentials) return;
  const auto convert = [&](auto& s) {
    if (state.next != Phase::kStart)
      logarithm(team, geo.n, state.u(s), 1.0, state.shift, p.f.data());
    logarithm(team, geo.m, state.v(s), 1.0, 0.0, p.g.data());
  };
  if (state.domain == Domain::kSingle)
    convert(p.scalings<float>());
  else
    convert(p.scalings<double>());
  state.domain = Domain::kPotentials;
}

struct Update {
  double before = 0, after = 0;  // marginal error
  double mass = 0;               // of the plan, before
  double low = kInf, high = 0;   // of the sums
};

// The update of one side from S = K (mass * scaling of the other side); old is null on the first.
template <class T>
Update scale(Team& team, int64_t size, const T* S, const T* mass, const T* old, double w, T* out,
             T* weighted) {
  const Relaxation<T> relax(w);
  const T one = 1, most = T(1e20);  // keeps products finite
  Vec<T> low = splat(std::numeric_limits<T>::infinity()), high{}, before{}, after{}, total{};
  const auto [from, to] = team.share(size, W<T>);
  for (int64_t i = from; i < to; i += W<T>) {
    const Vec<T> s = load(S + i), m = load(mass + i);
    low = vmin(low, s);
    high = vmax(high, s);
    Vec<T> next;
    if (old) {
      const Vec<T> ratio = vmin(load(old + i) * s, splat(most));
      before += m * vabs(ratio - one);
      total += m * ratio;
      next = relax.next(s, ratio);
      after += m * vabs(next * s - one);
    } else {
      next = reciprocal(s);
    }
    store(out + i, next);
    store(weighted + i, m * next);
  }
  const Update mine{hsum(before), w == 1.0 ? 0.0 : hsum(after), hsum(total), hmin(low), hmax(high)};
  return team.combine(mine, [](const Update& x, const Update& y) {
    return Update{x.before + y.before, x.after + y.after, x.mass + y.mass,
                  std::min(x.low, y.low), std::max(x.high, y.high)};
  });
}

// Where there is no mass, no update of the other side sees a scaling, and none may have followed it:
// the half-step from where the other side is now.
template <class T>
void complete(Team& team, int64_t size, const T* S, const T* mass, T* scaling) {
  const auto [from, to] = team.share(size, W<T>);
  for (int64_t i = from; i < to; i += W<T>)
    store(scaling + i, select(load(mass + i) == T(0), reciprocal(load(S + i)), load(scaling + i)));
  team.barrier();
}

// Scales v, and with it f and g against each other, so that the sums of both sides have their
// logarithms around half of the kernel's shift.
inline void centre(Team& team, const Geometry& geo, Scalings<float>& s, float* v, double shift) {
  const auto [low, high] = extent(team, v, size<float>(geo.m));
  const double middle = 0.5 * (std::log(low) + std::log(high));
  const float factor = float(std::exp(-0.5 * shift - middle));
  const auto [from, to] = team.share(size<float>(geo.m), W<float>);
  for (int64_t i = from; i < to; i += W<float>) {
    store(v + i, load(v + i) * factor);
    store(&s.bv[i], load(&s.bv[i]) * factor);
  }
  team.barrier();
}

// Whether to leave single precision at this marginal error. Rounding shows below the floor, whose
// sums are as long as the axes; short of it, an error that hardly falls may be rounding already.
inline bool too_fine(const Geometry& geo, double error, double previous) {
  const double length = double(geo.n[0] + geo.n[1] + geo.n[2]);
  return error < 2.6e-7 * std::sqrt(length) || (error < 3e-5 && error > 0.95 * previous);
}

// Scaling domain. Returns when the problem is done, or with the last state in range, or in single
// precision before an iteration below the floor is observed.
template <class T, class Kernel>
void solve_scaling(Team& team, const Geometry& geo, Workspace& p, Kernel& kernel,
                   Control& control, State& state) {
  Scalings<T>& s = p.scalings<T>();
  const auto& [a, b] = p.measures<T>(team);
  const int64_t n = size<T>(geo.n), m = size<T>(geo.m);
  typename Kernel::Trace forward, backward;
  state.shift = kernel.shift();
  const auto in_range = [tiny = Range<T>::tiny * std::exp(state.shift)](const Update& update) {
    return update.low > tiny && update.high < Range<T>::huge;
  };
  if constexpr (std::is_same_v<T, float>)
    if (state.next == Phase::kStart) centre(team, geo, s, state.v(s), state.shift);
  // A solve that arrives here before an update of f may end with it, and the cost needs the trace.
  if (state.next == Phase::kRow) kernel.backward(team, state.au(s), s.Z.data(), backward);
  const auto update_g = [&] {
    kernel.backward(team, state.au(s), s.Z.data(), backward);
    const Update column = scale(team, m, s.Z.data(), b.data(), state.v(s), control.w,
                                state.v_next(s), s.bv.data());
    if (!in_range(column)) return false;
    state.flop = !state.flop;
    state.next = Phase::kRow;
    state.column_error = column.after;
    ++control.k;
    return true;
  };
  if (state.next == Phase::kColumn && !update_g()) return;
  for (;;) {
    const bool started = state.next == Phase::kRow;
    kernel.forward(team, s.bv.data(), s.S.data(), forward);
    const auto update_f = [&] {
      return scale(team, n, s.S.data(), a.data(), started ? state.u(s) : nullptr, control.w,
                   state.u_next(s), state.au_next(s));
    };
    const double w = control.w;
    const Update row = update_f();
    if (!in_range(row)) return;
    if (started) {
      control.mass = row.mass;
      const bool each = control.cost_every_iteration();
      const double cost = each ? kernel.cost(team, forward, backward) : 0.0;
      const double error = row.before + state.column_error;
      if (std::is_same_v<T, float> && too_fine(geo, error, control.error) &&
          !control.ends(error, cost))
        return;
      if (control.observe(error, cost)) {
        if (control.cost_at_the_end()) control.cost = kernel.cost(team, forward, backward);
        complete(team, n, s.S.data(), a.data(), state.u(s));
        complete(team, m, s.Z.data(), b.data(), state.v(s));
        state.next = Phase::kDone;
        return;
      }
      if (control.w != w) update_f();
    }
    state.flip = !state.flip;
    state.next = Phase::kColumn;
    if (!update_g()) return;
  }
}

// Log domain; the same iteration in logarithms. A solve that left the other domain between f and
// g takes its update of f again, which changes nothing where the weight is 1.
template <class Kernel, class Cost>
class LogSolver {
 public:
  LogSolver(const Cost& geo, double epsilon) : kernel_(geo, epsilon) {
    for (Buffer* x : {&la_, &k_, &L_, &mean_}) x->resize(size<double>(geo.n));
    for (Buffer* x : {&lb_, &h_, &M_}) x->resize(size<double>(geo.m));
  }

  void operator()(Team& team, Workspace& p, Control& control, State& state) {
    const auto& [a, b] = p.measures<double>(team);
    each(team, la_, [&](int64_t i) { store(&la_[i], vlog(load(&a[i]))); });
    each(team, lb_, [&](int64_t i) { store(&lb_[i], vlog(load(&b[i]))); });
    bool summed = false;  // M_ belongs to f
    const auto sum_on_target = [&] {
      add(team, p.f, la_, k_);
      kernel_.backward(team, k_.data(), M_.data());
      summed = true;
    };
    for (;;) {
      const bool started = state.next == Phase::kRow;
      add(team, p.g, lb_, h_);
      kernel_.forward(team, h_.data(), L_.data());
      if (started) {
        const Marginal row = marginal(team, a, p.f, L_);
        control.mass = row.mass;
        const double cost = control.cost_every_iteration() ? transport_cost(team, a, p.f) : 0.0;
        if (control.observe(row.error + state.column_error, cost)) {
          if (control.cost_at_the_end()) control.cost = transport_cost(team, a, p.f);
          if (!summed) sum_on_target();
          complete(team, a, L_, p.f);
          complete(team, b, M_, p.g);
          state.next = Phase::kDone;
          return;
        }
      }
      relax(team, p.f, L_, control.w, !started);
      sum_on_target();
      relax(team, p.g, M_, control.w, false);
      state.next = Phase::kRow;
      state.column_error = marginal(team, b, p.g, M_).error;
      ++control.k;
    }
  }

 private:
  struct Marginal {
    double error, mass;
  };

  template <class F>
  static void each(Team& team, const Buffer& x, F f) {
    const auto [from, to] = team.share(x.size(), W<double>);
    for (int64_t i = from; i < to; i += W<double>) f(i);
    team.barrier();
  }
  static void add(Team& team, const Buffer& x, const Buffer& y, Buffer& out) {
    each(team, x, [&](int64_t i) { store(&out[i], load(&x[i]) + load(&y[i])); });
  }
  static Vec<double> ratio(const Buffer& x, const Buffer& l, int64_t i) {
    return vexp(vmin(load(&x[i]) + load(&l[i]), splat(690.0)));
  }
  // Marginal error of a side whose potential is x and whose log-sum is l, and the plan's mass.
  static Marginal marginal(Team& team, const Buffer& mass, const Buffer& x, const Buffer& l) {
    Vec<double> error{}, sum{};
    each(team, x, [&](int64_t i) {
      const Vec<double> m = load(&mass[i]), r = ratio(x, l, i);
      error += m * vabs(r - 1.0);
      sum += m * r;
    });
    return team.combine(Marginal{hsum(error), hsum(sum)}, [](Marginal p, Marginal q) {
      return Marginal{p.error + q.error, p.mass + q.mass};
    });
  }
  static void relax(Team& team, Buffer& x, const Buffer& l, double w, bool plain) {
    const Relaxation<double> r(w);
    each(team, x, [&](int64_t i) {
      const Vec<double> next = -load(&l[i]);
      const Vec<double> s = vexp(vmax(vmin(load(&x[i]) - next, splat(690.0)), splat(-690.0)));
      store(&x[i], plain || w == 1.0 ? next : next + vlog(r.factor(s)));
    });
  }
  // As in the scaling domain.
  static void complete(Team& team, const Buffer& mass, const Buffer& l, Buffer& x) {
    each(team, x, [&](int64_t i) {
      store(&x[i], select(load(&mass[i]) == 0.0, -load(&l[i]), load(&x[i])));
    });
  }
  double transport_cost(Team& team, const Buffer& a, const Buffer& f) {
    kernel_.forward_mean(team, h_.data(), L_.data(), mean_.data());
    Vec<double> total{};
    each(team, mean_,
         [&](int64_t i) { total += load(&a[i]) * ratio(f, L_, i) * load(&mean_[i]); });
    return team.sum(hsum(total));
  }

  Kernel kernel_;
  Buffer la_, lb_, h_, k_, L_, M_, mean_;
};

// All iterations of one problem, with the kernels of the last epsilon kept.
template <class Cost>
class Solver {
 public:
  explicit Solver(const Cost& geo) : geo_(geo), single_(geo), double_(geo) {}

  // p holds the masses and the start: g in nats, or scalings.
  Control operator()(Team& team, Workspace& p, double epsilon, const Options& options,
                     State& state) {
    Control control(options, geo_.max_cost / epsilon);
    const auto waiting = [&] { return state.domain == Domain::kPotentials; };
    if (waiting() && options.single && fits<float>(geo_, epsilon))
      to_scalings<float>(team, geo_, p, state);
    if (state.domain == Domain::kSingle) {
      if (fits<float>(geo_, epsilon)) run<float>(team, p, epsilon, single_, control, state);
      if (state.next == Phase::kDone) return control;
      widen(team, geo_, p, state);
    }
    if (waiting() && fits<double>(geo_, epsilon)) to_scalings<double>(team, geo_, p, state);
    if (state.domain == Domain::kDouble) {
      run<double>(team, p, epsilon, double_, control, state);
      if (state.next == Phase::kDone) return control;
    }
    to_potentials(team, geo_, p, state);
    team.once([&] { log_.emplace(geo_, epsilon); });
    (*log_)(team, p, control, state);
    return control;
  }

 private:
  template <class T, class Kernel>
  void run(Team& team, Workspace& p, double epsilon, Kernel& kernel, Control& control,
           State& state) {
    kernel.prepare(team, epsilon);
    solve_scaling<T>(team, geo_, p, kernel, control, state);
  }

  const Cost& geo_;
  typename Kernels<Cost>::template Scaling<float> single_;
  typename Kernels<Cost>::template Scaling<double> double_;
  std::optional<LogSolver<typename Kernels<Cost>::Log, Cost>> log_;
};

}  // namespace
