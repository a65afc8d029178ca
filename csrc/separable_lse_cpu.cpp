// out(x) = log sum_y exp(h(y) - C(x, y) / epsilon) for a separable cost.

#include "separable.h"

// h is (batch, m...), out is (batch, n...), costs[k] is (n_k, m_k), all contiguous.
extern "C" void PER_ISA(separable_lse)(int64_t batch, int d, const int64_t* shape_n,
                                       const int64_t* shape_m, const double* const* costs,
                                       const double* h, const double* epsilon, int threads,
                                       double* out) {
  const Geometry geo(d, shape_n, shape_m, costs);
  const int outer = int(std::min<int64_t>(batch, threads)), inner = std::max(1, threads / outer);
  const int64_t nn = geo.n.count(), mm = geo.m.count();
#pragma omp parallel num_threads(outer) if (outer > 1)
  {
    FlushSubnormals flush;
    LogSumExp log_sum_exp(geo, inner);
    Buffer x(geo.m.size()), l(geo.n.size());
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < batch; ++i) {
      pad_rows(h + i * mm, geo.m, -kInf, x.data());
      log_sum_exp(x.data(), epsilon[i], l.data());
      unpad_rows(l.data(), geo.n, out + i * nn);
    }
  }
}
