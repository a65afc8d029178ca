// The whole Sinkhorn solve of a batch of problems on a separable cost, multiscale start included.

#include "pyramid.h"

namespace {

// What a team needs; masses are in the precision of M.
template <class M>
struct SinkhornSpace {
  Workspace p;
  Solver solve;
  std::optional<Pyramid<M>> pyramid;
  SinkhornSpace(const Geometry& geo, int d, const PyramidArguments* arguments)
      : p(geo), solve(geo) {
    if (arguments) pyramid.emplace(*arguments, geo, d);
  }
};

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

template <class T, class M>
void solve_batch(int64_t batch, int d, const Geometry& geo, const T* a, const T* b,
                 const double* epsilon, const PyramidArguments* pyramid, const Options& options,
                 int threads, T* f, T* g, const Diagnostics<T>& out) {
  const int64_t nn = geo.n.count(), mm = geo.m.count();
  for_each_problem(
      batch, threads, geo.work() > kTogetherAbove,
      [&] { return std::make_unique<SinkhornSpace<M>>(geo, d, pyramid); },
      [&](Team& team, int64_t i, SinkhornSpace<M>& own) {
        Workspace& p = own.p;
        const double eps = epsilon[i];
        p.set_measures<M>(team, a + i * nn, b + i * mm);
        State state;
        double work = 0;
        if (own.pyramid) {
          work = own.pyramid->start(team, p, eps, state);
        } else {
          copy_lines(team, geo.m, g + i * mm, geo.m[2], kRepeat, p.g.data());
          const auto [from, to] = team.share(geo.m.lines());
          const int64_t width = stride<double>(geo.m);
          for (int64_t j = from * width; j < to * width; ++j) p.g[j] /= eps;
          team.barrier();
        }
        const Control control = own.solve(team, p, eps, options, state);
        const bool in_log_domain = state.domain == Domain::kPotentials;
        const double dual =
            finish(team, geo, p, state, eps, control.mass, f + i * nn, g + i * mm);
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

}  // namespace

// Shapes and costs are those of Geometry; a and f are (batch, n...), b and g are (batch, m...), all
// contiguous. They, cost, value and marginal_error are of floats where single is set, which also is
// the precision of the arithmetic far from the solution. f and g are in units of cost, with <g, b> = 0. The start is that of the
// pyramid, else g itself as it is on entry.
extern "C" void PER_ISA(sinkhorn_separable)(
    int64_t batch, int d, const int64_t* shape_n, const int64_t* shape_m,
    const double* const* costs, int single, const void* a, const void* b, const double* epsilon,
    const PyramidArguments* pyramid, double tol, int criterion, int max_iter,
    double overrelaxation, int threads, void* f, void* g, void* cost, void* value,
    void* marginal_error, int32_t* n_iters, uint8_t* converged, uint8_t* log_domain,
    double* coarse_work) {
  const Geometry geo(d, shape_of(d, shape_n), shape_of(d, shape_m), costs);
  // A small relative change of the cost would be noise in single precision.
  const bool rough = single && (criterion != kCost || tol >= 1e-5);
  const Options options{tol, criterion, max_iter, overrelaxation, rough};
  const auto solve = [&](auto type, auto measures) {
    using T = decltype(type);
    const Diagnostics<T> out{static_cast<T*>(cost), static_cast<T*>(value),
                             static_cast<T*>(marginal_error), coarse_work, n_iters, converged,
                             log_domain};
    solve_batch<T, decltype(measures)>(batch, d, geo, static_cast<const T*>(a),
                                       static_cast<const T*>(b), epsilon, pyramid, options,
                                       threads, static_cast<T*>(f), static_cast<T*>(g), out);
  };
  if (rough)
    solve(float(), float());
  else if (single)
    solve(float(), double());
  else
    solve(double(), double());
}
