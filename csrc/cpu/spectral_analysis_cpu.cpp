// Modes of many images: first x last^T for each image x.

#include "spectral.h"

namespace {

template <class T>
void spectral_analysis(int64_t images, const TransformShape& s, const void* x, const void* first,
                       const void* last, int threads, void* out) {
  struct Own {
    Analysis<T> transform;
    Array<T> lines;
  };
  for_each_stretch(
      images, threads,
      [&] {
        Analysis<T> transform(s, static_cast<const T*>(first), static_cast<const T*>(last));
        const int64_t between = s.n0 * transform.line();
        return Own{std::move(transform), Array<T>(between)};
      },
      [&](Own& own, int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
          own.transform.last_axis(s.n0, static_cast<const T*>(x) + i * s.points(), s.n1, 0, s.n1,
                                  own.lines.data(), own.transform.line());
          own.transform.first_axis(own.lines.data(), 0, s.n0,
                                   static_cast<T*>(out) + i * 2 * s.modes(), false);
        }
      });
}

}  // namespace

// x is (images, n0, n1), first (m0, n0, 2), last (m1, n1, 2), out (images, 2, m0, m1), of floats
// where single is set.
extern "C" void PER_ISA(spectral_analysis)(int64_t images, const TransformShape* shape, int single,
                                           const void* x, const void* first, const void* last,
                                           int threads, void* out) {
  const auto run = single ? spectral_analysis<float> : spectral_analysis<double>;
  run(images, *shape, x, first, last, threads, out);
}
