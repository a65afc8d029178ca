// Transposition, by squares of vectors where there are any.
#pragma once

#include <algorithm>

#include "vector.h"

// GCC has it from 12 on.
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HAS_SHUFFLE 1
#endif
#endif

namespace {

#if HAS_SHUFFLE
// The first half of a0 b0 a1 b1 ..., or the second.
template <class V, int... I>
inline V interleaved(V a, V b, std::integer_sequence<int, I...>, bool second) {
  constexpr int lanes = int(sizeof...(I));
  return second ? __builtin_shufflevector(a, b, (I / 2 + lanes / 2 + I % 2 * lanes)...)
                : __builtin_shufflevector(a, b, (I / 2 + I % 2 * lanes)...);
}

template <class T, int... I>
inline void split_pairs(Vec<T> a, Vec<T> b, T* x, T* y, std::integer_sequence<int, I...>) {
  store(x, __builtin_shufflevector(a, b, (2 * I)...));
  store(y, __builtin_shufflevector(a, b, (2 * I + 1)...));
}

// A square of W x W: interleaving the upper half of the rows with the lower, log2(W) times.
template <class T>
inline void transpose_square(const T* in, int64_t in_stride, T* out, int64_t out_stride) {
  constexpr std::make_integer_sequence<int, W<T>> lanes;
  Vec<T> x[W<T>], y[W<T>];
  for (int i = 0; i < W<T>; ++i) x[i] = load(in + i * in_stride);
  for (int step = 1; step < W<T>; step *= 2) {
    for (int i = 0; i < W<T> / 2; ++i) {
      y[2 * i] = interleaved(x[i], x[i + W<T> / 2], lanes, false);
      y[2 * i + 1] = interleaved(x[i], x[i + W<T> / 2], lanes, true);
    }
    for (int i = 0; i < W<T>; ++i) x[i] = y[i];
  }
  for (int i = 0; i < W<T>; ++i) store(out + i * out_stride, x[i]);
}
#endif

// Pairs (x, y) in memory, the first `count` of a vector's lanes, apart; zeros in the other lanes.
template <class T>
inline void load_pairs(const T* pairs, int64_t count, T* x, T* y) {
#if HAS_SHUFFLE
  if (count >= W<T>) {
    split_pairs<T>(load(pairs), load(pairs + W<T>), x, y, std::make_integer_sequence<int, W<T>>());
    return;
  }
#endif
  for (int64_t i = 0; i < W<T>; ++i) {
    x[i] = i < count ? pairs[2 * i] : T(0);
    y[i] = i < count ? pairs[2 * i + 1] : T(0);
  }
}
// The first `count` lanes as pairs in memory.
template <class T>
inline void store_pairs(Vec<T> x, Vec<T> y, int64_t count, T* pairs) {
#if HAS_SHUFFLE
  if (count >= W<T>) {
    constexpr std::make_integer_sequence<int, W<T>> lanes;
    store(pairs, interleaved(x, y, lanes, false));
    store(pairs + W<T>, interleaved(x, y, lanes, true));
    return;
  }
#endif
  for (int64_t i = 0; i < std::min<int64_t>(count, W<T>); ++i) {
    pairs[2 * i] = x[i];
    pairs[2 * i + 1] = y[i];
  }
}

// out(c, r) = in(r, c), in tiles: lines a power of two apart would evict each other.
template <class From, class To>
void transpose(int64_t rows, int64_t columns, const From* in, int64_t in_stride, To* out,
               int64_t out_stride) {
  constexpr int64_t tile = 16;
  for (int64_t r0 = 0; r0 < rows; r0 += tile)
    for (int64_t c0 = 0; c0 < columns; c0 += tile) {
      const int64_t r1 = std::min(r0 + tile, rows), c1 = std::min(c0 + tile, columns);
#if HAS_SHUFFLE
      if constexpr (std::is_same_v<From, To> && tile % W<To> == 0)
        if (r1 - r0 == tile && c1 - c0 == tile) {
          for (int64_t r = r0; r < r1; r += W<To>)
            for (int64_t c = c0; c < c1; c += W<To>)
              transpose_square(in + r * in_stride + c, in_stride, out + c * out_stride + r,
                               out_stride);
          continue;
        }
#endif
      for (int64_t c = c0; c < c1; ++c)
        for (int64_t r = r0; r < r1; ++r) out[c * out_stride + r] = To(in[r * in_stride + c]);
    }
}

}  // namespace
