// The whole Sinkhorn solve of a batch of problems on a separable cost of one or two axes,
// multiscale start included, in one launch.

#include "plan.h"

namespace {

KERNEL MOST_THREADS(kMostThreads) void sinkhorn_separable_kernel(
    const GRID_CONSTANT Arguments args) {
  BatchSolver<SeparableCost>(args, *reinterpret_cast<Shared*>(shared_memory())).run();
}

Sizes separable_sizes(const Arguments& args, int cluster, bool same_axes) {
  Sizes sizes{};
  for (int l = 0; l <= args.levels; ++l) {
    const int blocks = l <= args.together ? cluster : 1;
    const auto rows = [&](int length) {
      return int64_t(padded(length) / kTile + blocks - 1) / blocks * kTile;
    };
    const LevelArguments& level = args.level[l];
    sizes.source = larger(sizes.source, rows(level.n[0]) * stride_for<double>(level.n[1]));
    sizes.target = larger(sizes.target, rows(level.m[0]) * stride_for<double>(level.m[1]));
  }
  const int *n = args.level[0].n, *m = args.level[0].m;
  sizes.x = larger(sizes.source, sizes.target);
  sizes.between = larger(int64_t(padded(n[1])) * stride_for<double>(m[0]),
                         int64_t(padded(m[1])) * stride_for<double>(n[0]));
  // A prolongation takes the place of a cost: (m_k, at most n_k).
  for (int k = 0; k < 2; ++k) {
    const int longer = n[k] > m[k] ? n[k] : m[k];
    sizes.kernel[k] = int64_t(padded(longer)) * stride_for<double>(longer);
  }
  sizes.mean = sizes.between;
  sizes.one_kernel = same_axes;
  sizes.shared_arrays = 2;
  return sizes;
}

}  // namespace

// A launch in two steps: the plan, then, with memory of plan->scratch_bytes, the launch itself.
extern "C" int sinkhorn_separable_plan(Arguments* args, int device, int same_axes, int cluster,
                                       Plan* plan) {
  return make_plan(*args, device, cluster, *plan,
                   [&](int blocks) { return separable_sizes(*args, blocks, same_axes); });
}
extern "C" int sinkhorn_separable_launch(Arguments* args, const Plan* plan, int device,
                                         void* scratch, void* stream) {
  return run_plan(sinkhorn_separable_kernel, *args, *plan, device, scratch, stream);
}
