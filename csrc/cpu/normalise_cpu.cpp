// Masses scaled to total 1.

#include <algorithm>
#include <cmath>

#include "vector.h"

namespace {

constexpr int64_t kPerThread = 1 << 19;  // masses: fewer are done before a thread wakes up

// The total of masses that are plainly valid: no sign bit, no NaN, a total far from the ends of the
// range (subnormal numbers are flushed here). NaN for others, whose trouble is found elsewhere.
template <class T>
double plain_total(const T* x, int64_t count) {
  typename Simd<T>::Int signs{};
  Vec<double> sum{};
  const int64_t whole = count / W<T> * W<T>;
  for (int64_t i = 0; i < whole; i += W<T>) {
    signs |= (typename Simd<T>::Int)load(x + i);
    for (int half = 0; half < W<T>; half += W<double>) sum += load_wide(x + i + half);
  }
  double total = hsum(sum);
  bool negative = false;
  for (int lane = 0; lane < W<T>; ++lane) negative |= signs[lane] < 0;
  for (int64_t i = whole; i < count; ++i) {
    total += double(x[i]);
    negative |= std::signbit(x[i]);
  }
  return !negative && total > 1e-30 && total < 1e30 ? total : std::nan("");
}

template <class T>
void scale(const T* x, int64_t count, double factor, T* out) {
  int64_t i = 0;
  for (; i + W<double> <= count; i += W<double>) store_narrow(out + i, load_wide(x + i) * factor);
  for (; i < count; ++i) out[i] = T(double(x[i]) * factor);
}

// Measures of one side of a batch of problems.
struct Side {
  int64_t batch, count;
  const void* masses;
  void* normalised;
  double* total;
};

template <class T>
bool normalise(const Side& source, const Side& target, int threads) {
  const int64_t measures = source.batch + target.batch;
  const int64_t work = (source.batch * source.count + target.batch * target.count) / kPerThread;
  const int team = int(std::min({measures, work + 1, int64_t(threads)}));
  bool plain = true;
#pragma omp parallel num_threads(team) reduction(&& : plain)
  {
    FlushSubnormals flush;
#pragma omp for schedule(static)
    for (int64_t k = 0; k < measures; ++k) {
      const Side& side = k < source.batch ? source : target;
      const int64_t i = k < source.batch ? k : k - source.batch, at = i * side.count;
      const T* x = static_cast<const T*>(side.masses) + at;
      side.total[i] = plain_total(x, side.count);
      plain = plain && !std::isnan(side.total[i]);
      scale(x, side.count, 1.0 / side.total[i], static_cast<T*>(side.normalised) + at);
    }
  }
  return plain;
}

}  // namespace

// a and its result are (batch_a, count_a), b likewise, of doubles or floats; gap is the largest
// relative difference of the totals of a pair. Returns whether all measures were plainly valid,
// else the results are of no use.
extern "C" int PER_ISA(normalise)(int64_t batch_a, int64_t count_a, int64_t batch_b,
                                  int64_t count_b, int is_float, const void* a, const void* b,
                                  int threads, void* a_out, void* b_out, double* total_a,
                                  double* total_b, double* gap) {
  const Side source{batch_a, count_a, a, a_out, total_a};
  const Side target{batch_b, count_b, b, b_out, total_b};
  const bool plain = is_float ? normalise<float>(source, target, threads)
                              : normalise<double>(source, target, threads);
  *gap = 0;
  for (int64_t i = 0; i < std::min(batch_a, batch_b); ++i)
    *gap = std::max(*gap, std::abs(total_a[i] - total_b[i]) / total_a[i]);
  return plain;
}
