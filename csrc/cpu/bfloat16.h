// Products of floats whose factors are rounded to bfloat16 (8 significant bits), summed in float:
// twice as many operations per instruction, where the processor has it.
#pragma once

#include "gemm.h"

namespace {

#if VECTOR_BYTES == 64
// Two numbers of bfloat16 in each lane, the first in the lower half.
using Pairs = Vec<uint32_t>;

// Instructions by their names: intrinsics would need a file compiled for processors that have them.
//
// Neighbours of the 32 numbers of `low` and `high`, rounded.
inline Pairs rounded_neighbours(Vec<float> low, Vec<float> high) {
  Pairs out;
  asm("vcvtne2ps2bf16 %2, %1, %0" : "=v"(out) : "v"(high), "v"(low));
  return out;
}
// sum + x0 y0 + x1 y1 for the pairs of each lane.
inline Vec<float> add_pair_products(Vec<float> sum, Pairs x, Pairs y) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
  return sum;
}
// The lanes of x beside those of y, rounded.
inline Pairs rounded_lanes(Vec<float> x, Vec<float> y) {
  const auto apart = (__m512i)rounded_neighbours(x, y);
  const __m512i order = _mm512_set_epi16(
      31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19,
      3, 18, 2, 17, 1, 16, 0);
  return (Pairs)_mm512_maskz_permutexvar_epi16(0xffffffff, order, apart);
}

// The first `count` pairs in memory, at most all lanes; zeros in the other ones.
inline Pairs rounded_pairs(const float* pairs, int64_t count) {
  const int64_t low = std::min<int64_t>(2 * count, W<float>), high = 2 * count - low;
  return rounded_neighbours(load_some(pairs, low),
                            load_some(pairs + low, std::min<int64_t>(high, W<float>)));
}

constexpr uint32_t kFirstSign = 0x8000, kSecondSign = 0x80000000;
inline Pairs swapped(Pairs x) { return x << 16 | x >> 16; }

template <>
struct Factor<uint32_t> {
  static Vec<float> add_product(Vec<float> sum, Pairs x, Pairs y) {
    return add_pair_products(sum, x, y);
  }
};

// The first lanes of a vector, all of them at most.
inline __mmask16 first_lanes(int64_t count) {
  return count >= W<float> ? 0xffff : count > 0 ? (1 << count) - 1 : 0;
}

// Rows of A as pairs along the depth, `pairs` of them with zeros in the end.
inline void round_rows(int64_t rows, int64_t K, const float* A, int64_t lda, int64_t pairs,
                       uint32_t* out) {
  const int64_t half = W<float>, whole = K / (2 * half) * 2 * half;
  for (int64_t r = 0; r < rows; ++r, A += lda, out += pairs) {
    for (int64_t k = 0; k < whole; k += 2 * half)
      store(out + k / 2, rounded_neighbours(load(A + k), load(A + k + half)));
    for (int64_t k = whole; k < 2 * pairs; k += 2 * half) {
      const auto low = (Vec<float>)_mm512_maskz_loadu_ps(first_lanes(K - k), A + k);
      const auto high = (Vec<float>)_mm512_maskz_loadu_ps(first_lanes(K - k - half), A + k + half);
      _mm512_mask_storeu_epi32(out + k / 2, first_lanes(pairs - k / 2),
                               (__m512i)rounded_neighbours(low, high));
    }
  }
}
// A panel of B likewise: rows of pairs of its rows.
inline void round_columns(int64_t K, const float* B, int64_t ldb, int vectors, uint32_t* out) {
  for (int64_t k = 0; k < K; k += 2, B += 2 * ldb)
    for (int j = 0; j < vectors; ++j, out += W<float>) {
      const Vec<float> x = load(B + j * W<float>);
      const Vec<float> y = k + 1 < K ? load(B + ldb + j * W<float>) : Vec<float>{};
      store(out, rounded_lanes(x, y));
    }
}

// gemm() of rounded factors.
inline void rounded_gemm(int64_t from, int64_t to, int64_t N, int64_t K, const float* A,
                         int64_t lda, const float* B, int64_t ldb, float* C, int64_t ldc,
                         bool add) {
  const int64_t rows = to - from;
  if (rows <= 0) return;
  const int64_t most = std::min(K, 2 * kDepth), pairs = (most + 1) / 2;
  static thread_local Array<uint32_t> a, b;
  if (int64_t(a.size()) < rows * pairs) a.resize(rows * pairs);
  if (int64_t(b.size()) < pairs * NV * W<float>) b.resize(pairs * NV * W<float>);
  for (int64_t k0 = 0; k0 < K; k0 += most) {
    const int64_t k = std::min(most, K - k0);
    round_rows(rows, k, A + from * lda + k0, lda, (k + 1) / 2, a.data());
    for (int64_t column = 0; column < N; column += NV * W<float>) {
      const int v = int(std::min<int64_t>(NV, (N - column) / W<float>));
      round_columns(k, B + k0 * ldb + column, ldb, v, b.data());
      const int64_t depth = (k + 1) / 2;
      panel<NV>(v, rows, depth, a.data(), depth, b.data(), v * W<float>, C + from * ldc + column,
                ldc, add || k0 > 0);
    }
  }
}
#endif

}  // namespace
