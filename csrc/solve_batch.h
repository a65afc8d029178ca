// A batch of problems on one geometry, spread over threads.
#pragma once

#include "sinkhorn.h"

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

// Results of a batch besides the potentials, one per problem.
template <class T>
struct Diagnostics {
  T *cost, *value, *marginal_error;
  double* coarse_work;
  int32_t* n_iters;
  uint8_t *converged, *log_domain;
};

// Start() makes what a team needs to find where a problem i starts: start(team, i, workspace, state)
// leaves potentials or scalings there and returns the work that it took.
template <class M, class T, class Cost, class Start>
void solve_batch(int64_t batch, const Cost& geo, const T* a, const T* b, const double* epsilon,
                 const Options& options, int threads, Start make_start, T* f, T* g,
                 const Diagnostics<T>& out) {
  const int64_t nn = geo.n.count(), mm = geo.m.count();
  struct Own {
    Workspace p;
    Solver<Cost> solve;
    decltype(make_start()) start;
  };
  for_each_problem(
      batch, threads, geo.work > kTogetherAbove,
      [&] { return std::unique_ptr<Own>(new Own{Workspace(geo), Solver<Cost>(geo), make_start()}); },
      [&](Team& team, int64_t i, Own& own) {
        Workspace& p = own.p;
        p.set_measures<M>(team, a + i * nn, b + i * mm);
        State state;
        const double work = own.start(team, i, p, state);
        const Control control = own.solve(team, p, epsilon[i], options, state);
        const bool in_log_domain = state.domain == Domain::kPotentials;
        const double dual =
            finish(team, geo, p, state, epsilon[i], control.mass, f + i * nn, g + i * mm);
        if (!team.first()) return;
        out.value[i] = T(dual);
        out.cost[i] = T(control.cost);
        out.marginal_error[i] = T(control.error);
        out.n_iters[i] = control.k;
        out.converged[i] = control.converged;
        out.log_domain[i] = in_log_domain;
        out.coarse_work[i] = work;
      });
}

// The start g as given, in units of cost.
template <class T>
struct GivenStart {
  const Geometry& geo;
  const double* epsilon;
  const T* g;

  double operator()(Team& team, int64_t i, Workspace& p, State&) const {
    copy_lines(team, geo.m, g + i * geo.m.count(), geo.m[2], kRepeat, p.g.data());
    const auto [from, to] = team.share(geo.m.lines());
    const int64_t width = stride<double>(geo.m);
    for (int64_t j = from * width; j < to * width; ++j) p.g[j] /= epsilon[i];
    team.barrier();
    return 0.0;
  }
};

}  // namespace
