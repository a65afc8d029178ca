// The whole Sinkhorn solve of a batch of problems on a separable cost of one or two axes, multiscale
// start included, in one launch.

#include <type_traits>

#include "launch.h"
#include "sinkhorn_separable.h"

namespace {

KERNEL MOST_THREADS(kMostThreads) void sinkhorn_separable_kernel(
    const GRID_CONSTANT Arguments args) {
  Shared& shared = *reinterpret_cast<Shared*>(shared_memory());
  BatchSolver(args, shared).run();
}

// Where the arrays of one precision go: shared memory in the order of use, then scratch.
class Layout {
 public:
  Layout(const Arguments& args, int cluster, bool same_axes) {
    const auto most = [](int64_t x, int64_t y) { return x > y ? x : y; };
    source_ = target_ = between_ = 0;
    for (int l = 0; l <= args.levels; ++l) {
      const int blocks = l <= args.together ? cluster : 1;
      const auto rows = [&](int length) {
        const int tiles = padded(length) / kTile;
        return int64_t(tiles + blocks - 1) / blocks * kTile;
      };
      const auto [n0, n1] = args.level[l].n;
      const auto [m0, m1] = args.level[l].m;
      source_ = most(source_, rows(n0) * stride_for<double>(n1));
      target_ = most(target_, rows(m0) * stride_for<double>(m1));
    }
    operand_ = most(source_, target_);
    const auto [n0, n1] = args.level[0].n;
    const auto [m0, m1] = args.level[0].m;
    between_ = most(int64_t(padded(n1)) * stride_for<double>(m0), int64_t(padded(m1)) * stride_for<double>(n0));
    // A prolongation takes the place of a cost: (m_k, at most n_k).
    const auto matrix = [&](int n, int m) {
      return int64_t(padded(n > m ? n : m)) * stride_for<double>(m > n ? m : n);
    };
    kernel_[0] = matrix(n0, m0);
    kernel_[1] = same_axes ? 0 : matrix(n1, m1);
    same_ = same_axes;
  }

  int64_t mean_bytes() const { return between_ * 8; }

  // False where not even the arrays that other blocks write fit; scratch receives what is needed.
  bool place(int size, int64_t shared_bytes, int64_t scratch_from, Room& room, int64_t& shared_used,
             int64_t& scratch_used) const {
    int64_t used = 0, spilled = 0;
    room.in_scratch = 0;
    int bit = 0;
    const auto put = [&](int64_t count) {
      const int64_t bytes = (count * size + 127) / 128 * 128;
      const int own = bit++;
      if (used + bytes <= shared_bytes) {
        used += bytes;
        return used - bytes;
      }
      room.in_scratch |= 1u << own;
      spilled += bytes;
      return scratch_from + spilled - bytes;
    };
    room.x = put(operand_);
    room.between = put(between_);
    if (room.in_scratch) return false;
    room.kernel[0] = put(kernel_[0]);
    if (same_) {
      room.kernel[1] = room.kernel[0];
      room.in_scratch |= (room.in_scratch >> 2 & 1) << 3;
      ++bit;
    } else {
      room.kernel[1] = put(kernel_[1]);
    }
    room.u = put(source_);
    room.v = put(target_);
    room.a = put(source_);
    room.b = put(target_);
    shared_used = used > shared_used ? used : shared_used;
    scratch_used = spilled > scratch_used ? spilled : scratch_used;
    return true;
  }

 private:
  int64_t source_, target_, operand_, between_, kernel_[2];
  bool same_;
};

}  // namespace

// A launch in two steps: the plan, then, with memory of plan->scratch_bytes, the launch itself.
struct Plan {
  int clusters, cluster, threads;
  int64_t shared_bytes, scratch_bytes;
};

// cluster: blocks per problem, 0 to choose. Returns 0; -1 where the grid is too large for this
// kernel; or a CUDA error.
extern "C" int sinkhorn_separable_plan(Arguments* args, int device, int same_axes, int cluster,
                                       Plan* plan) {
  Device properties;
  if (const int error = describe(device, &properties)) return error;
  const LevelArguments& grid = args->level[0];
  const int rows = padded(grid.n[0] > grid.m[0] ? grid.n[0] : grid.m[0]) / kTile;
  const int64_t points = int64_t(grid.n[0]) * grid.n[1];
  // The blocks of a cluster solve small levels each on its own: they would wait for each other
  // longer than they compute.
  args->together = 0;
  for (int l = 1; l <= args->levels; ++l)
    if (int64_t(args->level[l].n[0]) * args->level[l].n[1] > 48 * 48) args->together = l;
  if (cluster == 0) {
    // One block per problem, unless that leaves processors idle.
    cluster = 1;
    while (cluster < kMostCluster && 2 * cluster <= rows &&
           2 * cluster * args->batch <= properties.processors)
      cluster *= 2;
  }
  const int64_t room = properties.shared_bytes - kSharedBytes;
  const auto bytes_of = [](const int* s) { return int64_t(s[0]) * s[1] * 8; };
  int64_t masses = 0;
  for (int l = 1; l <= args->levels; ++l)
    masses += bytes_of(args->level[l].n) + bytes_of(args->level[l].m);
  for (;; cluster *= 2) {
    if (cluster > kMostCluster) return -1;
    const Layout layout(*args, cluster, same_axes);
    args->scratch_f = 0;
    args->scratch_g = args->scratch_f + bytes_of(grid.n);
    args->scratch_masses = args->scratch_g + bytes_of(grid.m);
    args->scratch_mean = args->scratch_masses + masses;
    const int64_t from = (args->scratch_mean + layout.mean_bytes() + 127) / 128 * 128;
    int64_t shared_used = 0, spilled = 0;
    const bool tf32 = args->precision != kDouble;
    // Half of a processor's memory is enough for what is used most: two blocks hide each other's
    // waits.
    const int64_t half = (properties.shared_bytes + 1024) / 2 - 1024 - kSharedBytes;
    bool placed = false;
    for (const int64_t limit : {cluster == 1 ? half : room, room}) {
      shared_used = spilled = 0;
      placed = layout.place(8, limit, from, args->room[1], shared_used, spilled) &&
               (!tf32 || layout.place(4, limit, from, args->room[0], shared_used, spilled));
      if (placed) break;
    }
    if (!placed) continue;
    args->scratch_per_block = (from + spilled + 127) / 128 * 128;
    plan->shared_bytes = kSharedBytes + shared_used;
    break;
  }
  plan->cluster = cluster;
  plan->threads = points <= 32 * 32 ? 64 : points > 64 * 64 && cluster < 4 ? 256 : 128;
  const int64_t by_memory = (properties.shared_bytes + 1024) / (plan->shared_bytes + 1024);
  const int64_t by_registers = kMostThreads / plan->threads;  // a thread may take all it can
  const int64_t per_processor = by_memory < by_registers ? by_memory : by_registers;
  const int64_t resident = properties.processors * per_processor / cluster;
  const int64_t wanted = args->batch < resident ? args->batch : resident;
  plan->clusters = int(wanted > 1 ? wanted : 1);
  plan->scratch_bytes = args->scratch_per_block * plan->clusters * cluster + 128;
  return 0;
}

extern "C" int sinkhorn_separable_launch(Arguments* args, const Plan* plan, int device,
                                         void* scratch, void* stream) {
  args->next_problem = static_cast<int*>(scratch);
  args->scratch = static_cast<char*>(scratch) + 128;
  if (args->batch > plan->clusters)
    if (const int error = clear(scratch, sizeof(int), stream)) return error;
  const Shape shape{plan->clusters, plan->cluster, plan->threads, plan->shared_bytes};
  return launch(sinkhorn_separable_kernel, *args, shape, device, stream);
}

// What the library was built for: "9.0a", "9.0+PTX", joined by semicolons.
extern "C" const char* unot_fast_architectures() { return ARCHITECTURES; }
extern "C" const char* unot_fast_error(int error) { return error_text(error); }
