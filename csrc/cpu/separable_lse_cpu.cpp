// out(x) = log sum_y exp(h(y) - C(x, y) / epsilon) for a separable cost.

#include "log_sum_exp.h"
#include "separable_log.h"

// h is (batch, m...), out is (batch, n...), costs[k] is (n_k, m_k), all contiguous.
extern "C" void PER_ISA(separable_lse)(int64_t batch, int d, const int64_t* shape_n,
                                       const int64_t* shape_m, const double* const* costs,
                                       const double* h, const double* epsilon, int threads,
                                       double* out) {
  const SeparableCost geo(d, shape_of(d, shape_n), shape_of(d, shape_m), costs);
  log_sum_exp_batch(batch, geo, h, epsilon, threads, out);
}
