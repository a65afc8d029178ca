// Modes of many images: first x last^T for each image x.

#include "spectral.h"

namespace {

template <class T>
void spectral_analysis(int64_t images, const TransformShape& s, const T* x, const T* first,
                       const T* last, Products product, int threads, T* out) {
  struct Own {
    Analysis<T> transform;
    Array<T> lines;
  };
  // Without a table for the first axis all lines are alike, and some are transformed together.
  const int64_t lines = images * s.n0, together = first ? s.n0 : std::min<int64_t>(lines, 96);
  for_each_stretch(
      first ? images : (lines + together - 1) / together, threads,
      [&] {
        Analysis<T> transform(s, first, last, product);
        const int64_t between = together * transform.line();
        return Own{std::move(transform), Array<T>(between)};
      },
      [&](Own& own, int64_t from, int64_t to) {
        const int64_t stride = own.transform.line();
        T* between = own.lines.data();
        for (int64_t i = from; i < to; ++i) {
          const int64_t begin = i * together, count = std::min(together, lines - begin);
          own.transform.last_axis(count, x + begin * s.n1, s.n1, 0, s.n1, between, stride);
          if (first)
            own.transform.first_axis(between, 0, s.n0, out + i * 2 * s.modes(), false);
          else
            for (int64_t k = 0; k < count; ++k)
              std::copy_n(between + k * stride, 2 * s.m1, out + (begin + k) * 2 * s.m1);
        }
      });
}

}  // namespace

// x is (images, n0, n1), first (m0, n0, 2), last (m1, n1, 2), out (images, 2, m0, m1), of floats
// where single is set, whose products round their factors to bfloat16 where rounded is. first may be
// null, and out is (images, n0, 2, m1) then.
extern "C" void PER_ISA(spectral_analysis)(int64_t images, const TransformShape* shape, int single,
                                           int rounded, const void* x, const void* first,
                                           const void* last, int threads, void* out) {
  const auto run = [&](auto of) {
    using T = decltype(of);
    spectral_analysis<T>(images, *shape, static_cast<const T*>(x), static_cast<const T*>(first),
                         static_cast<const T*>(last), Products(rounded), threads,
                         static_cast<T*>(out));
  };
  single ? run(float()) : run(double());
}
