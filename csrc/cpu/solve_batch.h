// A batch of problems on one geometry, spread over threads.
#pragma once

#include "sinkhorn.h"

// A batch of problems, but for their cost, and where the results go. a and f are (batch, n...), b
// and g are (batch, m...), all contiguous. They, cost, value and marginal_error are of floats where
// single is set, which also is the precision of the arithmetic far from the solution. f and g are
// in units of cost, with <g, b> = 0; g on entry is the start, unless another one is asked for.
struct SolveArguments {
  int64_t batch;
  int single;
  const void *a, *b;
  const double* epsilon;
  double tol;
  int criterion, max_iter;
  double overrelaxation;
  int threads;
  void *f, *g, *cost, *value, *marginal_error;
  int32_t* n_iters;
  uint8_t *converged, *log_domain;
  double* coarse_work;
};

namespace {

// <mass, x> over padded arrays; the padding of mass is zero.
template <class T>
double dot(Team& team, int64_t size, const T* mass, const T* x) {
  Vec<double> sum{};
  const auto [from, to] = team.share(size, W<T>);
  for (int64_t i = from; i < to; i += W<double>) sum += load_wide(mass + i) * load_wide(x + i);
  return team.sum(hsum(sum));
}

// scale * (x + shift), without the padding.
template <class From, class To>
void write_lines(Team& team, const Shape& s, const From* x, double scale, double shift, To* out) {
  const auto [from, to] = team.share(s.lines());
  for (int64_t r = from; r < to; ++r) {
    const From* row = x + r * stride<From>(s);
    To* line = out + r * s[2];
    int64_t j = 0;
    for (; j + W<double> <= s[2]; j += W<double>)
      store_narrow(line + j, (load_wide(row + j) + shift) * scale);
    for (; j < s[2]; ++j) line[j] = To((row[j] + shift) * scale);
  }
}

// The potentials of a solve that is done, in units of cost with <g, b> = 0. Returns the dual
// objective <f, a> + <g, b> - epsilon (mass - 1).
template <class T>
double finish(Team& team, const Geometry& geo, Workspace& p, State& state, double epsilon,
              double mass, T* f_out, T* g_out) {
  // Masses and potentials in nats; f still lacks `shift`.
  const auto from = [&](const auto& measures, const auto* f, const auto* g, double shift) {
    const auto& [a, b] = measures;
    const double fa = dot(team, a.size(), a.data(), f) + shift;
    const double gb = dot(team, b.size(), b.data(), g);
    write_lines(team, geo.n, f, epsilon, shift + gb, f_out);
    write_lines(team, geo.m, g, epsilon, -gb, g_out);
    return epsilon * (fa + gb - (mass - 1.0));
  };
  const auto from_scalings = [&](auto& s, const auto& measures) {
    auto *u = state.u(s), *v = state.v(s);
    take_logarithm(team, measures.a.size(), u);
    take_logarithm(team, measures.b.size(), v);
    return from(measures, u, v, state.shift);
  };
  if (state.domain == Domain::kSingle)
    return from_scalings(p.scalings<float>(), p.measures<float>(team));
  const auto& measures = p.measures<double>(team);
  if (state.domain == Domain::kDouble) return from_scalings(p.scalings<double>(), measures);
  return from(measures, p.f.data(), p.g.data(), 0.0);
}

// Start() makes what a team needs to find where a problem i starts: start(team, i, workspace, state)
// leaves potentials or scalings there and returns the work that it took.
template <class T, class M, class Cost, class Start>
void solve_batch(const SolveArguments& args, const Cost& geo, const Options& options,
                 Start make_start) {
  const T *a = static_cast<const T*>(args.a), *b = static_cast<const T*>(args.b);
  T *f = static_cast<T*>(args.f), *g = static_cast<T*>(args.g);
  T *cost = static_cast<T*>(args.cost), *value = static_cast<T*>(args.value);
  T* marginal_error = static_cast<T*>(args.marginal_error);
  const int64_t nn = geo.n.count(), mm = geo.m.count();
  struct Own {
    Workspace p;
    Solver<Cost> solve;
    decltype(make_start()) start;
  };
  for_each_problem(
      args.batch, args.threads, geo.work > kTogetherAbove,
      [&] { return std::unique_ptr<Own>(new Own{Workspace(geo), Solver<Cost>(geo), make_start()}); },
      [&](Team& team, int64_t i, Own& own) {
        Workspace& p = own.p;
        const double epsilon = args.epsilon[i];
        p.set_measures<M>(team, a + i * nn, b + i * mm);
        State state;
        const double work = own.start(team, i, p, state);
        const Control control = own.solve(team, p, epsilon, options, state);
        const bool in_log_domain = state.domain == Domain::kPotentials;
        const double dual =
            finish(team, geo, p, state, epsilon, control.mass, f + i * nn, g + i * mm);
        if (!team.first()) return;
        value[i] = T(dual);
        cost[i] = T(control.cost);
        marginal_error[i] = T(control.error);
        args.n_iters[i] = control.k;
        args.converged[i] = control.converged;
        args.log_domain[i] = in_log_domain;
        args.coarse_work[i] = work;
      });
}

// In the types that the arguments ask for: start_for(T(), M()) is the Start for data in the
// precision of T and masses in that of M.
template <class Cost, class StartFor>
void solve_in_types(const SolveArguments& args, const Cost& geo, StartFor start_for) {
  // A small relative change of the cost would be noise in single precision.
  const bool rough = args.single && (args.criterion != kCost || args.tol >= 1e-5);
  const Options options{args.tol, args.criterion, args.max_iter, args.overrelaxation, rough};
  if (rough)
    solve_batch<float, float>(args, geo, options, start_for(float(), float()));
  else if (args.single)
    solve_batch<float, double>(args, geo, options, start_for(float(), double()));
  else
    solve_batch<double, double>(args, geo, options, start_for(double(), double()));
}

// The start g as given, in units of cost.
template <class T>
struct GivenStart {
  const SolveArguments& args;
  const Geometry& geo;

  double operator()(Team& team, int64_t i, Workspace& p, State&) const {
    const T* g = static_cast<const T*>(args.g) + i * geo.m.count();
    copy_lines(team, geo.m, g, geo.m[2], kRepeat, p.g.data());
    const auto [from, to] = team.share(geo.m.lines());
    const int64_t width = stride<double>(geo.m);
    for (int64_t j = from * width; j < to * width; ++j) p.g[j] /= args.epsilon[i];
    team.barrier();
    return 0.0;
  }
};

}  // namespace
