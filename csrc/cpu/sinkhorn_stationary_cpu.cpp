// The whole Sinkhorn solve of a batch of problems on a cost that is stationary along the last axis.

#include "lines.h"
#include "solve_batch.h"

// The cost is that of LineCost at step 1.
extern "C" void PER_ISA(sinkhorn_stationary)(const SolveArguments* args, int d,
                                             const int64_t* shape_n, const int64_t* shape_m,
                                             int64_t classes, const double* table,
                                             const int32_t* class_of) {
  const LineCost geo(shape_of(d, shape_n), shape_of(d, shape_m), classes, 1, table, class_of);
  solve_in_types(*args, geo, [&](auto type, auto) {
    return [&] { return GivenStart<decltype(type)>{*args, geo}; };
  });
}
