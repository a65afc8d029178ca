// The whole Sinkhorn solve of a batch of problems on a separable cost, multiscale start included.

#include "pyramid.h"

namespace {

// What a team needs.
struct SinkhornSpace {
  Workspace p;
  Solver solve;
  std::optional<Pyramid> pyramid;
  SinkhornSpace(const Geometry& geo, int d, const PyramidArguments* arguments, bool single)
      : p(geo), solve(geo) {
    if (arguments) pyramid.emplace(*arguments, geo, d, single);
  }
};

// From nats to units of cost, with the free constant such that <g, b> = 0. Returns the dual
// objective <f, a> + <g, b> - epsilon (mass - 1).
template <class T>
double finish(Team& team, const Geometry& geo, const Workspace& p, double epsilon, double mass,
              T* f, T* g) {
  const auto dot = [&](const Buffer& x, const Buffer& y) {
    Vec<double> sum{};
    const auto [from, to] = team.share(x.size(), W<double>);
    for (int64_t i = from; i < to; i += W<double>) sum += load(&x[i]) * load(&y[i]);
    return team.sum(hsum(sum));
  };
  const auto write = [&](const Shape& s, const Buffer& x, double shift, T* out) {
    const auto [from, to] = team.share(s.lines());
    for (int64_t r = from; r < to; ++r) {
      const double* row = &x[r * stride<double>(s)];
      std::transform(row, row + s[2], out + r * s[2],
                     [=](double y) { return T((y + shift) * epsilon); });
    }
  };
  const double fa = dot(p.a, p.f), shift = dot(p.b, p.g);
  write(geo.n, p.f, shift, f);
  write(geo.m, p.g, -shift, g);
  return epsilon * (fa + shift - (mass - 1.0));
}

// Masses that were rounded to single precision do not sum to 1 exactly, and two marginals of
// unequal totals would keep a solve from converging.
template <class T>
void load_masses(Team& team, const T* in, const Shape& s, Buffer& out) {
  pad_rows(team, in, s, 0.0, out.data());
  team.barrier();
  if constexpr (std::is_same_v<T, double>) return;
  Vec<double> sum{};
  const auto [from, to] = team.share(out.size(), W<double>);
  for (int64_t i = from; i < to; i += W<double>) sum += load(&out[i]);
  const double scale = 1.0 / team.sum(hsum(sum));
  for (int64_t i = from; i < to; i += W<double>) store(&out[i], load(&out[i]) * scale);
  team.barrier();
}

// Results of a batch besides the potentials, one per problem.
struct Diagnostics {
  double *cost, *value, *marginal_error, *coarse_work;
  int32_t* n_iters;
  uint8_t *converged, *log_domain;
};

template <class T>
void solve_batch(int64_t batch, int d, const Geometry& geo, const T* a, const T* b,
                 const double* epsilon, const PyramidArguments* pyramid, const Options& options,
                 int threads, T* f, T* g, const Diagnostics& out) {
  const int64_t nn = geo.n.count(), mm = geo.m.count();
  for_each_problem(
      batch, threads, geo.work() > kTogetherAbove,
      [&] { return std::make_unique<SinkhornSpace>(geo, d, pyramid, options.single); },
      [&](Team& team, int64_t i, SinkhornSpace& own) {
        Workspace& p = own.p;
        const double eps = epsilon[i];
        load_masses(team, a + i * nn, geo.n, p.a);
        load_masses(team, b + i * mm, geo.m, p.b);
        State state;
        double work = 0;
        if (own.pyramid) {
          work = own.pyramid->start(team, p, eps, state);
        } else {
          const int64_t width = stride<double>(geo.m);
          const auto [from, to] = team.share(geo.m.lines());
          for (int64_t r = from; r < to; ++r)
            for (int64_t j = 0; j < width; ++j)
              p.g[r * width + j] = g[i * mm + r * geo.m[2] + std::min(j, geo.m[2] - 1)] / eps;
          team.barrier();
        }
        const Control control = own.solve(team, p, eps, options, state);
        const bool in_log_domain = state.domain == Domain::kPotentials;
        to_potentials(team, geo, p, state);
        const double dual = finish(team, geo, p, eps, control.mass, f + i * nn, g + i * mm);
        if (!team.first()) return;
        out.value[i] = dual;
        out.cost[i] = control.cost;
        out.marginal_error[i] = control.error;
        out.n_iters[i] = control.k;
        out.converged[i] = control.converged;
        out.log_domain[i] = in_log_domain;
        out.coarse_work[i] = work;
      });
}

}  // namespace

// Shapes and costs are those of Geometry; a and f are (batch, n...), b and g are (batch, m...), all
// contiguous, of floats where single is set, which also is the precision of the arithmetic far
// from the solution. f and g are in units of cost, with <g, b> = 0. The start is that of the
// pyramid, else g itself as it is on entry.
extern "C" void PER_ISA(sinkhorn_separable)(
    int64_t batch, int d, const int64_t* shape_n, const int64_t* shape_m,
    const double* const* costs, int single, const void* a, const void* b, const double* epsilon,
    const PyramidArguments* pyramid, double tol, int criterion, int max_iter,
    double overrelaxation, int threads, void* f, void* g, double* cost, double* value,
    double* marginal_error, int32_t* n_iters, uint8_t* converged, uint8_t* log_domain,
    double* coarse_work) {
  const Geometry geo(d, shape_of(d, shape_n), shape_of(d, shape_m), costs);
  // A small relative change of the cost would be noise in single precision.
  const bool rough = single && (criterion != kCost || tol >= 1e-5);
  const Options options{tol, criterion, max_iter, overrelaxation, rough};
  const Diagnostics out{cost, value, marginal_error, coarse_work, n_iters, converged, log_domain};
  const auto solve = [&](auto type) {
    using T = decltype(type);
    solve_batch(batch, d, geo, static_cast<const T*>(a), static_cast<const T*>(b), epsilon,
                pyramid, options, threads, static_cast<T*>(f), static_cast<T*>(g), out);
  };
  if (single)
    solve(float());
  else
    solve(double());
}
