// How a launch is laid out: blocks, shared memory and scratch.
#pragma once

#include "batch.h"
#include "launch.h"

struct Plan {
  int clusters, cluster, threads;
  int64_t shared_bytes, scratch_bytes;
};

namespace {

constexpr int kTooLarge = -1;

inline int64_t larger(int64_t x, int64_t y) { return x > y ? x : y; }

// Numbers in the arrays of a block, and how many of them have to be in shared memory.
struct Sizes {
  int64_t x, between, kernel[2], source, target, mean;
  bool one_kernel;  // both axes share one
  int shared_arrays;
};

// Shared memory in the order of use, then scratch; false where what has to be shared does not fit.
inline bool place(const Sizes& sizes, int itemsize, int64_t shared_bytes, int64_t scratch_from,
                  Room& room, int64_t& shared_used, int64_t& scratch_used) {
  int64_t used = 0, spilled = 0;
  int bit = 0;
  room.in_scratch = 0;
  const auto put = [&](int64_t count) {
    const int64_t bytes = (count * itemsize + 127) / 128 * 128;
    const int own = bit++;
    if (used + bytes <= shared_bytes) {
      used += bytes;
      return used - bytes;
    }
    room.in_scratch |= 1u << own;
    spilled += bytes;
    return scratch_from + spilled - bytes;
  };
  room.x = put(sizes.x);
  room.between = put(sizes.between);
  if (room.in_scratch & ((1u << sizes.shared_arrays) - 1)) return false;
  room.kernel[0] = put(sizes.kernel[0]);
  if (sizes.one_kernel) {
    room.kernel[1] = room.kernel[0];
    room.in_scratch |= (room.in_scratch >> 2 & 1) << 3;
    ++bit;
  } else {
    room.kernel[1] = put(sizes.kernel[1]);
  }
  room.u = put(sizes.source);
  room.v = put(sizes.target);
  room.a = put(sizes.source);
  room.b = put(sizes.target);
  shared_used = larger(shared_used, used);
  scratch_used = larger(scratch_used, spilled);
  return true;
}

// sizes_for(cluster) are those of a block of a cluster. cluster: blocks per problem, 0 to choose.
// Returns 0, kTooLarge, or a CUDA error.
template <class SizesFor>
int make_plan(Arguments& args, int device, int cluster, Plan& plan, SizesFor sizes_for) {
  Device properties;
  if (const int error = describe(device, &properties)) return error;
  const LevelArguments& grid = args.level[0];
  const int rows = padded(grid.n[0] > grid.m[0] ? grid.n[0] : grid.m[0]) / kTile;
  const int64_t points = int64_t(grid.n[0]) * grid.n[1];
  const auto bytes_of = [](const int* s) { return int64_t(s[0]) * s[1] * 8; };
  // The blocks of a cluster solve small levels each on its own: they would wait for each other
  // longer than they compute.
  args.together = 0;
  for (int l = 1; l <= args.levels; ++l)
    if (int64_t(args.level[l].n[0]) * args.level[l].n[1] > 48 * 48) args.together = l;
  if (cluster == 0) {
    // One block per problem, unless that leaves processors idle.
    cluster = 1;
    while (cluster < kMostCluster && 2 * cluster <= rows &&
           2 * cluster * args.batch <= properties.processors)
      cluster *= 2;
  }
  int64_t masses = 0;
  for (int l = 1; l <= args.levels; ++l)
    masses += bytes_of(args.level[l].n) + bytes_of(args.level[l].m);
  // Half of a processor's memory is enough for what is used most: two blocks hide each other's
  // waits.
  const int64_t room = properties.shared_bytes - kSharedBytes;
  const int64_t half = (properties.shared_bytes + 1024) / 2 - 1024 - kSharedBytes;
  const bool tf32 = args.precision != kDouble;
  int64_t shared_used = 0, spilled = 0;
  for (bool placed = false; !placed; cluster *= placed ? 1 : 2) {
    if (cluster > kMostCluster) return kTooLarge;
    const Sizes sizes = sizes_for(cluster);
    args.scratch_f = 0;
    args.scratch_g = args.scratch_f + bytes_of(grid.n);
    args.scratch_masses = args.scratch_g + bytes_of(grid.m);
    args.scratch_mean = args.scratch_masses + masses;
    const int64_t from = (args.scratch_mean + sizes.mean * 8 + 127) / 128 * 128;
    for (const int64_t limit : {cluster == 1 ? half : room, room}) {
      shared_used = spilled = 0;
      placed = place(sizes, 8, limit, from, args.room[1], shared_used, spilled) &&
               (!tf32 || place(sizes, 4, limit, from, args.room[0], shared_used, spilled));
      if (placed) break;
    }
    args.scratch_per_block = (from + spilled + 127) / 128 * 128;
  }
  plan.cluster = cluster;
  plan.threads = points <= 32 * 32 ? 64 : points > 64 * 64 && cluster < 4 ? 256 : 128;
  plan.shared_bytes = kSharedBytes + shared_used;
  const int64_t by_memory = (properties.shared_bytes + 1024) / (plan.shared_bytes + 1024);
  const int64_t by_registers = kMostThreads / plan.threads;  // a thread may take all it can
  const int64_t resident =
      properties.processors * (by_memory < by_registers ? by_memory : by_registers) / cluster;
  const int64_t wanted = args.batch < resident ? args.batch : resident;
  plan.clusters = int(wanted > 1 ? wanted : 1);
  plan.scratch_bytes = args.scratch_per_block * plan.clusters * cluster + 128;
  return 0;
}

// With scratch of plan.scratch_bytes.
inline int run_plan(void (*kernel)(Arguments), Arguments& args, const Plan& plan, int device,
                    void* scratch, void* stream) {
  args.next_problem = static_cast<int*>(scratch);
  args.scratch = static_cast<char*>(scratch) + 128;
  if (args.batch > plan.clusters)
    if (const int error = clear(scratch, sizeof(int), device, stream)) return error;
  const Shape shape{plan.clusters, plan.cluster, plan.threads, plan.shared_bytes};
  return launch(kernel, args, shape, device, stream);
}

}  // namespace
