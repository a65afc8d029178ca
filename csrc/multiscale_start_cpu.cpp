// The multiscale start of a batch of problems: coarser problems are solved from the coarsest on,
// each from the c-transform of the one before, and the last is evaluated on the grid.

#include <deque>

#include "gaussian.h"
#include "sinkhorn.h"

namespace {

// What a level needs and all problems share. Level l pools level l - 1; level -1 is the grid.
struct Level {
  Geometry geo;
  Geometry prolongation;  // from its source cells to the target points of level l - 1
  SeparableMap pool_source, pool_target;
  double epsilon_floor, work;  // work: of one iteration, in iterations on the grid
};

SeparableMap pooling(const Shape& fine, const Shape& coarse, int d, const double* const* pools) {
  Buffer matrix[3];
  for (int k = 0; k < 3 - d; ++k) matrix[k] = {1.0};
  for (int k = 0; k < d; ++k) {
    const int axis = 3 - d + k;
    matrix[axis].assign(pools[k], pools[k] + coarse[axis] * fine[axis]);
  }
  return SeparableMap(fine, coarse, matrix, false);
}

// What a level needs per thread.
struct Scratch {
  Workspace space;
  Solver solve;
  LogSumExp prolong;
  Scratch(const Level& level, int threads)
      : space(level.geo), solve(level.geo, threads), prolong(level.prolongation, threads) {}
};

}  // namespace

// Levels run from the finest to the coarsest. Shapes are (levels + 1, d), the grid first; matrices
// are listed level by level, axis by axis: costs (n_k, m_k) of the level, prolongations (m_k of the
// next finer level, n_k), pools (n_k, n_k of the next finer level). x and y are the coordinates on
// the coarsest level. a and b are (batch, n...) and (batch, m...); g comes back in units of cost.
extern "C" void PER_ISA(multiscale_start)(
    int64_t batch, int d, int levels, const int64_t* shapes_n, const int64_t* shapes_m,
    const double* const* costs, const double* const* prolongations,
    const double* const* pools_source, const double* const* pools_target, const double* const* x,
    const double* const* y, const double* epsilon_floor, const double* work_share, int gaussian,
    double tol, int max_iter, const double* a, const double* b, const double* epsilon, int threads,
    double* g, double* work) {
  std::deque<Level> level;  // stable addresses: solvers refer to the geometries
  const auto shape = [d](const int64_t* s) {
    const int64_t full[3] = {d > 2 ? s[d - 3] : 1, d > 1 ? s[d - 2] : 1, s[d - 1]};
    return Shape{full[0], full[1], full[2]};
  };
  const Shape fine_n = shape(shapes_n), fine_m = shape(shapes_m);
  for (int l = 0; l < levels; ++l) {
    const int64_t *sn = shapes_n + (l + 1) * d, *sm = shapes_m + (l + 1) * d;
    const Shape below_n = shape(sn - d), below_m = shape(sm - d);
    level.push_back({Geometry(d, sn, sm, costs + l * d),
                     Geometry(d, sm - d, sn, prolongations + l * d),
                     pooling(below_n, shape(sn), d, pools_source + l * d),
                     pooling(below_m, shape(sm), d, pools_target + l * d), epsilon_floor[l],
                     work_share[l]});
  }
  static const double zero = 0;
  const double* coordinates[2][3] = {{&zero, &zero, &zero}, {&zero, &zero, &zero}};
  for (int k = 0; k < d; ++k) {
    coordinates[0][3 - d + k] = x[k];
    coordinates[1][3 - d + k] = y[k];
  }
  const Options options{tol, kMarginalNoCost, max_iter, 0.0};
  const int outer = int(std::min<int64_t>(batch, threads)), inner = std::max(1, threads / outer);

#pragma omp parallel num_threads(outer) if (outer > 1)
  {
    FlushSubnormals flush;
    std::deque<Scratch> scratch;
    for (const Level& l : level) scratch.emplace_back(l, inner);
    Buffer a0(fine_n.size()), b0(fine_m.size()), g0(fine_m.size()), h, t1, t2;
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < batch; ++i) {
      pad_rows(a + i * fine_n.count(), fine_n, 0.0, a0.data());
      pad_rows(b + i * fine_m.count(), fine_m, 0.0, b0.data());
      for (int l = 0; l < levels; ++l) {
        Workspace& p = scratch[l].space;
        const double* finer_a = l ? scratch[l - 1].space.a.data() : a0.data();
        const double* finer_b = l ? scratch[l - 1].space.b.data() : b0.data();
        level[l].pool_source.apply(finer_a, p.a.data(), t1, t2, inner);
        level[l].pool_target.apply(finer_b, p.b.data(), t1, t2, inner);
        clear_padding(level[l].geo.n, p.a.data());
        clear_padding(level[l].geo.m, p.b.data());
      }
      Workspace& top = scratch[levels - 1].space;
      const Geometry& top_geo = level[levels - 1].geo;
      double eps = std::max(epsilon[i], level[levels - 1].epsilon_floor);
      if (gaussian)
        gaussian_potential(top.a.data(), top_geo.n, coordinates[0], top.b.data(), top_geo.m,
                           coordinates[1], eps, top.g.data());
      else
        std::fill(top.g.begin(), top.g.end(), 0.0);
      for (double& v : top.g) v *= 1.0 / eps;

      work[i] = 0;
      for (int l = levels - 1; l >= 0; --l) {
        Workspace& p = scratch[l].space;
        bool log_domain;
        const Control done = scratch[l].solve(p, eps, options, log_domain);
        work[i] += (done.k + 0.5) * level[l].work;
        // The c-transform at the points of the next finer level, in nats of its epsilon.
        const Shape& n = level[l].geo.n;
        h.resize(n.size());
        for (int64_t j = 0; j < n.size(); j += W)
          store(&h[j], vlog(load(&p.a[j])) + load(&p.f[j]));
        Buffer& finer_g = l ? scratch[l - 1].space.g : g0;
        scratch[l].prolong(h.data(), eps, finer_g.data());
        const double next = l ? std::max(epsilon[i], level[l - 1].epsilon_floor) : 1.0;
        for (double& v : finer_g) v *= -eps / next;
        eps = next;
      }
      unpad_rows(g0.data(), fine_m, g + i * fine_m.count());
    }
  }
}
