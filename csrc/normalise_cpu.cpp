// Masses scaled to total 1.

#include <algorithm>
#include <cmath>

#include "vector.h"

namespace {

// The total of masses that are plainly valid: no sign bit, no NaN, a total far from the ends of the
// range (subnormal numbers are flushed here). NaN for others, whose trouble is found elsewhere.
template <class T>
double plain_total(const T* x, int64_t count) {
  typename Simd<T>::Bits sign = 0;
  for (int64_t i = 0; i < count; ++i) {
    typename Simd<T>::Bits bits;
    std::memcpy(&bits, x + i, sizeof bits);
    sign |= bits;
  }
  constexpr int lanes = W<double>;
  double sums[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    for (int lane = 0; lane < lanes; ++lane) sums[lane] += double(x[i + lane]);
  for (int lane = 0; i + lane < count; ++lane) sums[lane] += double(x[i + lane]);
  double total = 0;
  for (double sum : sums) total += sum;
  return sign >= 0 && total > 1e-30 && total < 1e30 ? total : std::nan("");
}

template <class T>
int normalise(int64_t batch, int64_t count, const void* masses, int threads, void* normalised,
              double* total) {
  const T* x = static_cast<const T*>(masses);
  T* out = static_cast<T*>(normalised);
  bool plain = true;
#pragma omp parallel num_threads(int(std::min<int64_t>(batch, threads))) reduction(&& : plain)
  {
    FlushSubnormals flush;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < batch; ++i) {
      const T* from = x + i * count;
      T* to = out + i * count;
      total[i] = plain_total(from, count);
      plain = plain && !std::isnan(total[i]);
      const double scale = 1.0 / total[i];
      for (int64_t j = 0; j < count; ++j) to[j] = T(double(from[j]) * scale);
    }
  }
  return plain;
}

}  // namespace

// x and out are (batch, count), of doubles or floats. Returns whether all problems were plainly
// valid, else out is of no use.
extern "C" int PER_ISA(normalise)(int64_t batch, int64_t count, const void* x, int is_float,
                                  int threads, void* out, double* total) {
  return is_float ? normalise<float>(batch, count, x, threads, out, total)
                  : normalise<double>(batch, count, x, threads, out, total);
}
