// The whole Sinkhorn solve of a batch of problems on a separable cost, multiscale start included.

#include "pyramid.h"

namespace {

// What a team needs.
struct SinkhornSpace {
  Workspace p;
  Solver solve;
  std::optional<Pyramid> pyramid;
  SinkhornSpace(const Geometry& geo, int d, const PyramidArguments* arguments)
      : p(geo), solve(geo) {
    if (arguments) pyramid.emplace(*arguments, geo, d);
  }
};

// From nats to units of cost, with the free constant such that <g, b> = 0. Returns the dual
// objective <f, a> + <g, b> - epsilon (mass - 1).
double finish(Team& team, const Geometry& geo, const Workspace& p, double epsilon, double mass,
              double* f, double* g) {
  const auto dot = [&](const Buffer& x, const Buffer& y) {
    Vec sum{};
    const auto [from, to] = team.share(x.size(), W);
    for (int64_t i = from; i < to; i += W) sum += load(&x[i]) * load(&y[i]);
    return team.sum(hsum(sum));
  };
  const auto write = [&](const Shape& s, const Buffer& x, double shift, double* out) {
    const auto [from, to] = team.share(s.lines());
    for (int64_t r = from; r < to; ++r) {
      const double* row = &x[r * s.ld()];
      double* to_row = out + r * s[2];
      int64_t j = 0;
      for (; j + W <= s[2]; j += W) store(to_row + j, (load(row + j) + shift) * epsilon);
      for (; j < s[2]; ++j) to_row[j] = (row[j] + shift) * epsilon;
    }
  };
  const double fa = dot(p.a, p.f), shift = dot(p.b, p.g);
  write(geo.n, p.f, shift, f);
  write(geo.m, p.g, -shift, g);
  return epsilon * (fa + shift - (mass - 1.0));
}

}  // namespace

// Shapes and costs are those of Geometry; a and f are (batch, n...), b and g are (batch, m...), all
// contiguous. f and g are in units of cost, with <g, b> = 0. The start is that of the pyramid,
// else g itself as it is on entry.
extern "C" void PER_ISA(sinkhorn_separable)(
    int64_t batch, int d, const int64_t* shape_n, const int64_t* shape_m,
    const double* const* costs, const double* a, const double* b, const double* epsilon,
    const PyramidArguments* pyramid, double tol, int criterion, int max_iter,
    double overrelaxation, int threads, double* f, double* g, double* cost, double* value,
    double* marginal_error, int32_t* n_iters, uint8_t* converged, uint8_t* log_domain,
    double* coarse_work) {
  const Geometry geo(d, shape_of(d, shape_n), shape_of(d, shape_m), costs);
  const Options options{tol, criterion, max_iter, overrelaxation};
  const int64_t nn = geo.n.count(), mm = geo.m.count();
  for_each_problem(
      batch, threads, geo.work() > kTogetherAbove,
      [&] { return new SinkhornSpace(geo, d, pyramid); },
      [&](Team& team, int64_t i, SinkhornSpace& own) {
        Workspace& p = own.p;
        const double eps = epsilon[i];
        pad_rows(team, a + i * nn, geo.n, 0.0, p.a.data());
        pad_rows(team, b + i * mm, geo.m, 0.0, p.b.data());
        State state(p);
        double work = 0;
        if (own.pyramid) {
          work = own.pyramid->start(team, p, eps, state);
        } else {
          const auto [from, to] = team.share(geo.m.lines());
          for (int64_t r = from; r < to; ++r)
            for (int64_t j = 0; j < geo.m.ld(); ++j)
              p.g[r * geo.m.ld() + j] =
                  g[i * mm + r * geo.m[2] + std::min(j, geo.m[2] - 1)] * (1.0 / eps);
          team.barrier();
        }
        const Control control = own.solve(team, p, eps, options, state);
        const bool in_log_domain = !state.scaled;
        to_potentials(team, p, state);
        const double dual = finish(team, geo, p, eps, control.mass, f + i * nn, g + i * mm);
        if (!team.first()) return;
        value[i] = dual;
        cost[i] = control.cost;
        marginal_error[i] = control.error;
        n_iters[i] = control.k;
        converged[i] = control.converged;
        log_domain[i] = in_log_domain;
        coarse_work[i] = work;
      });
}
