// out(x) = log sum_y exp(h(y) - C(x, y) / epsilon) for a cost that is stationary along the last
// axis.

#include "lines.h"
#include "log_sum_exp.h"

// h is (batch, m...), out is (batch, n...), and the cost is that of LineCost, all contiguous.
extern "C" void PER_ISA(stationary_lse)(int64_t batch, int d, const int64_t* shape_n,
                                        const int64_t* shape_m, int64_t classes, int64_t step,
                                        const double* table, const int32_t* class_of,
                                        const double* h, const double* epsilon, int threads,
                                        double* out) {
  const LineCost geo(shape_of(d, shape_n), shape_of(d, shape_m), classes, step, table, class_of);
  log_sum_exp_batch(batch, geo, h, epsilon, threads, out);
}
