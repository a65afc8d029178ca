// Work that is dealt to threads in equal stretches.
#pragma once

#include <algorithm>
#include <cstdint>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "vector.h"

namespace {

// work(own, from, to) on each thread's stretch of [0, count), own being what make() returns there;
// then merge(own), one thread after the other, so that sums do not depend on timing.
template <class Make, class Work, class Merge>
void for_each_stretch(int64_t count, int threads, Make make, Work work, Merge merge) {
  const int most = int(std::max<int64_t>(1, std::min<int64_t>(count, threads)));
#pragma omp parallel num_threads(most)
  {
#if defined(_OPENMP)
    const int rank = omp_get_thread_num(), size = omp_get_num_threads();
#else
    const int rank = 0, size = 1;
#endif
    FlushSubnormals flush;
    auto own = make();
    work(own, count * rank / size, count * (rank + 1) / size);
    for (int turn = 0; turn < size; ++turn) {
      if (turn == rank) merge(own);
#pragma omp barrier
    }
  }
}
template <class Make, class Work>
void for_each_stretch(int64_t count, int threads, Make make, Work work) {
  for_each_stretch(count, threads, make, work, [](auto&) {});
}

}  // namespace
