// log sum_y exp(h(y) - C(x, y) / epsilon) against a cost that depends on the last axis only through
// a shift, a thread for each x.

#include "launch.h"
#include "log_sum_exp.h"

struct LseArguments {
  int64_t batch;
  int rows, length, rows_in, length_in;  // of the result and of h, all leading axes as rows
  int single;                            // h and the result are of floats
  int classes, table_length, step;
  const double* table;
  const int32_t* class_of;
  const void* h;
  const double* epsilon;
  void* out;
};

namespace {

KERNEL MOST_THREADS(kMostThreads) void stationary_lse_kernel(
    const GRID_CONSTANT LseArguments args) {
  const int64_t points = int64_t(args.rows) * args.length;
  const int64_t points_in = int64_t(args.rows_in) * args.length_in;
  const int64_t at = int64_t(cluster_index()) * threads() + thread();
  if (at >= args.batch * points) return;
  const int64_t problem = at / points;
  const int r = int(at % points) / args.length, j = int(at % points) % args.length;
  const double scale = 1.0 / args.epsilon[problem];
  const auto h = [&](int k) { return number(args.h, args.single, problem * points_in + k); };
  const auto c = [&](int k) {
    const int q = k / args.length_in, l = k % args.length_in;
    const int64_t own = args.class_of[r * args.rows_in + q];
    return scale * args.table[own * args.table_length + j + args.step * (args.length_in - 1 - l)];
  };
  const double sum = log_sum_exp(int(points_in), h, c);
  set_number(args.out, args.single, at, sum);
}

}  // namespace

extern "C" int stationary_lse_run(const LseArguments* args, int device, void* stream) {
  constexpr int threads = 128;
  const int64_t points = args->batch * args->rows * args->length;
  const Shape shape{int((points + threads - 1) / threads), 1, threads, 0};
  return launch(stationary_lse_kernel, *args, shape, device, stream);
}
