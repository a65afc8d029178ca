// The whole Sinkhorn solve of a batch of problems on a cost that depends on the last axis only
// through a shift, in one launch.

#include "plan.h"

namespace {

KERNEL MOST_THREADS(kMostThreads) void sinkhorn_stationary_kernel(
    const GRID_CONSTANT Arguments args) {
  BatchSolver<LineCost>(args, *reinterpret_cast<Shared*>(shared_memory())).run();
}

Sizes line_sizes(const Arguments& args, int cluster) {
  const int *n = args.level[0].n, *m = args.level[0].m;
  const auto rows = [&](int length) {
    return int64_t(padded(length) / kTile + cluster - 1) / cluster * kTile;
  };
  Sizes sizes{};
  sizes.source = rows(n[0]) * stride_for<double>(n[1]);
  sizes.target = rows(m[0]) * stride_for<double>(m[1]);
  sizes.x = larger(padded(n[0]) * int64_t(line_stride<float>(n[1])),
                   padded(m[0]) * int64_t(line_stride<float>(m[1])));
  sizes.between = larger(sizes.source, sizes.target);
  sizes.kernel[0] = int64_t(args.lines.classes) * table_stride(n[1], m[1]);
  sizes.shared_arrays = cluster > 1 ? 1 : 0;  // others write into the operand
  return sizes;
}

}  // namespace

extern "C" int sinkhorn_stationary_plan(Arguments* args, int device, int, int cluster,
                                        Plan* plan) {
  return make_plan(*args, device, cluster, *plan,
                   [&](int blocks) { return line_sizes(*args, blocks); });
}
extern "C" int sinkhorn_stationary_launch(Arguments* args, const Plan* plan, int device,
                                          void* scratch, void* stream) {
  return run_plan(sinkhorn_stationary_kernel, *args, *plan, device, scratch, stream);
}
