// The whole Sinkhorn solve of a batch of problems on a separable cost, one problem per thread.

#include "sinkhorn.h"

namespace {

// From nats to units of cost, with the free constant such that <g, b> = 0. Returns the dual
// objective <f, a> + <g, b> - epsilon (mass - 1).
double finish(const Geometry& geo, Workspace& p, double epsilon, double mass) {
  Vec fa{}, gb{};
  for (int64_t i = 0; i < geo.n.size(); i += W) fa += load(&p.a[i]) * load(&p.f[i]);
  for (int64_t i = 0; i < geo.m.size(); i += W) gb += load(&p.b[i]) * load(&p.g[i]);
  const double shift = hsum(gb);
  for (int64_t i = 0; i < geo.n.size(); i += W)
    store(&p.f[i], (load(&p.f[i]) + shift) * epsilon);
  for (int64_t i = 0; i < geo.m.size(); i += W)
    store(&p.g[i], (load(&p.g[i]) - shift) * epsilon);
  return epsilon * (hsum(fa) + shift - (mass - 1.0));
}

}  // namespace

// Shapes and costs are those of Geometry; a is (batch, n...), b and g are (batch, m...), all
// contiguous. f and g are in units of cost, with <g, b> = 0; g holds the start on entry.
extern "C" void PER_ISA(sinkhorn_separable)(
    int64_t batch, int d, const int64_t* shape_n, const int64_t* shape_m,
    const double* const* costs, const double* a, const double* b, const double* epsilon,
    double tol, int criterion, int max_iter, double overrelaxation, int threads, double* f,
    double* g, double* cost, double* value, double* marginal_error, int32_t* n_iters,
    uint8_t* converged, uint8_t* log_domain) {
  const Geometry geo(d, shape_n, shape_m, costs);
  const int outer = int(std::min<int64_t>(batch, threads)), inner = std::max(1, threads / outer);
  const Options options{tol, criterion, max_iter, overrelaxation};
#pragma omp parallel num_threads(outer) if (outer > 1)
  {
    FlushSubnormals flush;
    Solver solve(geo, inner);
    Workspace p(geo);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < batch; ++i) {
      const int64_t nn = geo.n.count(), mm = geo.m.count();
      const double eps = epsilon[i];
      pad_rows(a + i * nn, geo.n, 0.0, p.a.data());
      pad_rows(b + i * mm, geo.m, 0.0, p.b.data());
      pad_rows(g + i * mm, geo.m, g[i * mm], p.g.data());
      for (double& x : p.g) x *= 1.0 / eps;

      bool in_log_domain;
      const Control control = solve(p, eps, options, in_log_domain);
      log_domain[i] = in_log_domain;
      value[i] = finish(geo, p, eps, control.mass);
      unpad_rows(p.f.data(), geo.n, f + i * nn);
      unpad_rows(p.g.data(), geo.m, g + i * mm);
      cost[i] = control.cost;
      marginal_error[i] = control.error;
      n_iters[i] = control.k;
      converged[i] = control.converged;
    }
  }
}
