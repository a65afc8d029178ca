// Measures of total 1, what their masses summed to, and the smallest mass of each.

#include "group.h"
#include "launch.h"

struct NormaliseArguments {
  int64_t count[2], points[2];  // measures of the source and of the target, points of one
  int single;
  const void* masses[2];
  void* scaled[2];
  double *totals[2], *smallest[2];  // smallest is NaN where a mass is
};

namespace {

template <class T>
DEVICE void normalise_one(const Group& alone, int64_t points, const T* x, T* scaled, double* total,
                          double* smallest) {
  int parity = 0;
  double sum = 0, negated = -kInf, strange = 0;
  for (int64_t i = thread(); i < points; i += threads()) {
    const double mass = double(x[i]);
    sum += mass;
    negated = most(negated, -mass);
    strange += mass != mass;
  }
  sum = alone.sum(sum, parity);
  negated = alone.largest(negated, parity);
  strange = alone.sum(strange, parity);
  for (int64_t i = thread(); i < points; i += threads()) scaled[i] = T(double(x[i]) / sum);
  if (thread() > 0) return;
  *total = sum;
  *smallest = strange > 0 ? kInf - kInf : -negated;
}

KERNEL MOST_THREADS(kMostThreads) void normalise_kernel(
    const GRID_CONSTANT NormaliseArguments args) {
  const Group alone(*reinterpret_cast<Slots*>(shared_memory()), true);
  const int side = cluster_index() < args.count[0] ? 0 : 1;
  const int64_t measure = cluster_index() - (side ? args.count[0] : 0);
  const int64_t points = args.points[side], at = measure * points;
  double *total = args.totals[side] + measure, *smallest = args.smallest[side] + measure;
  if (args.single)
    normalise_one(alone, points, static_cast<const float*>(args.masses[side]) + at,
                  static_cast<float*>(args.scaled[side]) + at, total, smallest);
  else
    normalise_one(alone, points, static_cast<const double*>(args.masses[side]) + at,
                  static_cast<double*>(args.scaled[side]) + at, total, smallest);
}

}  // namespace

extern "C" int normalise_run(const NormaliseArguments* args, int device, void* stream) {
  const Shape shape{int(args->count[0] + args->count[1]), 1, kMostThreads, sizeof(Slots)};
  return launch(normalise_kernel, *args, shape, device, stream);
}
