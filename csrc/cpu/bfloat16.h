// Products of floats that are rounded to bfloat16 (8 bits), summed in float: twice as many operations
// per instruction, where the processor has it.
#pragma once

#include "gemm.h"

namespace {

#if VECTOR_BYTES == 64
// A vector of pairs of bfloat16, one in each half of 32 bits, the first in the lower.
typedef uint32_t Pairs __attribute__((vector_size(VECTOR_BYTES)));

inline Pairs load_rounded(const uint32_t* p) {
  Pairs v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store_rounded(uint32_t* p, Pairs v) { std::memcpy(p, &v, sizeof v); }

// The instructions by their names: the file is compiled for processors that may lack them.
//
// Pairs of neighbours of the 32 numbers of `low` and `high`.
inline Pairs neighbours(Vec<float> low, Vec<float> high) {
  Pairs out;
  asm("vcvtne2ps2bf16 %2, %1, %0" : "=v"(out) : "v"(high), "v"(low));
  return out;
}
// sum + x0 y0 + x1 y1 for the pairs of each lane.
inline Vec<float> add_products(Vec<float> sum, Pairs x, Pairs y) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
  return sum;
}
// Pairs of the lanes of x and y.
inline Pairs lane_by_lane(Vec<float> x, Vec<float> y) {
  const auto side_by_side = (__m512i)neighbours(x, y);
  const __m512i order = _mm512_set_epi16(
      31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19,
      3, 18, 2, 17, 1, 16, 0);
  return (Pairs)_mm512_maskz_permutexvar_epi16(0xffffffff, order, side_by_side);
}

// The first lanes of a vector, all of them at most.
inline __mmask16 lanes(int64_t count) {
  return count >= W<float> ? 0xffff : count > 0 ? (1 << count) - 1 : 0;
}

// Rows of A as pairs along the depth.
inline void round_rows(int64_t rows, int64_t K, const float* A, int64_t lda, uint32_t* out) {
  const int64_t pairs = (K + 1) / 2;
  for (int64_t r = 0; r < rows; ++r, A += lda, out += pairs)
    for (int64_t k = 0; k < K; k += 2 * W<float>) {
      const auto low = (Vec<float>)_mm512_maskz_loadu_ps(lanes(K - k), A + k);
      const auto high = (Vec<float>)_mm512_maskz_loadu_ps(lanes(K - k - W<float>), A + k + W<float>);
      _mm512_mask_storeu_epi32(out + k / 2, lanes(pairs - k / 2), (__m512i)neighbours(low, high));
    }
}
// A panel of B likewise: rows of pairs of its rows.
inline void round_columns(int64_t K, const float* B, int64_t ldb, int vectors, uint32_t* out) {
  for (int64_t k = 0; k < K; k += 2, B += 2 * ldb)
    for (int j = 0; j < vectors; ++j, out += W<float>) {
      const Vec<float> x = load(B + j * W<float>);
      const Vec<float> y = k + 1 < K ? load(B + ldb + j * W<float>) : Vec<float>{};
      store_rounded(out, lane_by_lane(x, y));
    }
}

template <>
struct Factor<uint32_t> {
  static Pairs splat(uint32_t x) { return x - Pairs{}; }
  static Pairs load(const uint32_t* p) { return load_rounded(p); }
  static Vec<float> add_product(Vec<float> sum, Pairs x, Pairs y) {
    return add_products(sum, x, y);
  }
};

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
    round_rows(rows, k, A + from * lda + k0, lda, a.data());
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

// gemm(), with factors as they are or rounded; these only where the processor can.
class Products {
 public:
  explicit Products(bool rounded) : rounded_(rounded) {}

  template <class T>
  void operator()(int64_t from, int64_t to, int64_t N, int64_t K, const T* A, int64_t lda,
                  const T* B, int64_t ldb, T* C, int64_t ldc, bool add = false) const {
#if VECTOR_BYTES == 64
    if constexpr (sizeof(T) == sizeof(float))
      if (rounded_) return rounded_gemm(from, to, N, K, A, lda, B, ldb, C, ldc, add);
#endif
    gemm(from, to, N, K, A, lda, B, ldb, C, ldc, add);
  }

 private:
  const bool rounded_;
};

}  // namespace
