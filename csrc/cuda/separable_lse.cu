// log sum_j exp(x(o, j, c) - C(i, j) / epsilon) along one axis, a thread for each result.

#include "launch.h"
#include "log_sum_exp.h"

struct AxisArguments {
  int64_t batch, outer, inner;  // of a problem: points before and after the axis
  int length_in, length;        // of the axis
  int single_in, single;        // x, the result are of floats
  const double* cost;           // (length, length_in)
  const void* x;
  const double* epsilon;
  void* out;
};

namespace {

KERNEL MOST_THREADS(kMostThreads) void separable_lse_kernel(
    const GRID_CONSTANT AxisArguments args) {
  const int64_t points = args.outer * args.length * args.inner;
  const int64_t at = int64_t(cluster_index()) * threads() + thread();
  if (at >= args.batch * points) return;
  const int64_t column = at % args.inner, i = at / args.inner % args.length;
  const int64_t line = at / (args.inner * args.length), problem = at / points;
  const int64_t from = line * args.length_in * args.inner + column;
  const double scale = 1.0 / args.epsilon[problem];
  const double* cost = args.cost + i * args.length_in;
  const double sum = log_sum_exp(
      args.length_in,
      [&](int k) { return number(args.x, args.single_in, from + k * args.inner); },
      [&](int k) { return cost[k] * scale; });
  set_number(args.out, args.single, at, sum);
}

}  // namespace

extern "C" int separable_lse_run(const AxisArguments* args, int device, void* stream) {
  constexpr int threads = 128;
  const int64_t points = args->batch * args->outer * args->length * args->inner;
  const Shape shape{int((points + threads - 1) / threads), 1, threads, 0};
  return launch(separable_lse_kernel, *args, shape, device, stream);
}
