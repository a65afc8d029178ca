// Masses scaled to total 1.

#include <cmath>

#include "team.h"

namespace {

// The total, or NaN where an entry is negative or NaN, or the total is not positive and finite.
template <class T>
double valid_total(const T* x, int64_t count) {
  constexpr int lanes = W<double>;
  double sums[lanes] = {};
  T lows[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    for (int j = 0; j < lanes; ++j) {
      sums[j] += double(x[i + j]);
      lows[j] = x[i + j] < lows[j] ? x[i + j] : lows[j];
    }
  for (int j = 0; i + j < count; ++j) {
    sums[j] += double(x[i + j]);
    lows[j] = x[i + j] < lows[j] ? x[i + j] : lows[j];
  }
  double total = 0, low = 0;
  for (int j = 0; j < lanes; ++j) {
    total += sums[j];
    low = std::min(low, double(lows[j]));
  }
  return low == 0 && total > 0 && total < kInf ? total : std::nan("");
}

template <class T>
int normalise(int64_t batch, int64_t count, const void* masses, int threads, void* normalised,
              double* total) {
  const T* x = static_cast<const T*>(masses);
  T* out = static_cast<T*>(normalised);
  std::atomic<bool> all{true};
  for_each_problem(
      batch, threads, false, [] { return new char; },
      [&](Team&, int64_t i, char&) {
        const T* from = x + i * count;
        T* to = out + i * count;
        total[i] = valid_total(from, count);
        if (std::isnan(total[i])) all = false;
        const double scale = 1.0 / total[i];
        for (int64_t j = 0; j < count; ++j) to[j] = T(double(from[j]) * scale);
      });
  return all;
}

}  // namespace

// x and out are (batch, count), of doubles or floats. Returns whether every entry is >= 0 and every total
// positive and finite.
extern "C" int PER_ISA(normalise)(int64_t batch, int64_t count, const void* x, int is_float,
                                  int threads, void* out, double* total) {
  return is_float ? normalise<float>(batch, count, x, threads, out, total)
                  : normalise<double>(batch, count, x, threads, out, total);
}
