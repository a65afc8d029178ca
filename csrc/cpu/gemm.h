// C = A B for the shapes of a separable kernel: row-major, any M and K, N a multiple of the vector
// width (rows are padded).
//
// Column panels of B are walked by a register tile of MR rows x NV vectors. A panel is copied to
// contiguous memory when B is too large for the first-level cache.
#pragma once

#include <algorithm>

#include "buffer.h"
#include "vector.h"

namespace {

#if VECTOR_BYTES == 64
constexpr int MR = 6, NV = 4;
#elif VECTOR_BYTES == 32
constexpr int MR = 4, NV = 3;
#else
constexpr int MR = 4, NV = 2;
#endif
constexpr int64_t kPackAbove = 40 * 1024;  // bytes of B
// Deeper products go in steps whose panel of B stays in the first-level cache.
constexpr int64_t kBlockAbove = 320, kDepth = 192;

// sum + x y, for factors of type F.
template <class F>
struct Factor {
  static Vec<F> add_product(Vec<F> sum, Vec<F> x, Vec<F> y) { return sum + x * y; }
};

template <int R, int V, class F, class T>
inline void tile(int64_t K, const F* A, int64_t lda, const F* B, int64_t ldb, T* C,
                 int64_t ldc, bool add) {
  Vec<T> c[R][V];
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < V; ++j) c[i][j] = add ? load(C + i * ldc + j * W<T>) : Vec<T>{};
  for (int64_t k = 0; k < K; ++k) {
    Vec<F> b[V];
    for (int j = 0; j < V; ++j) b[j] = load(B + k * ldb + j * W<T>);
    for (int i = 0; i < R; ++i) {
      const Vec<F> a = splat(A[i * lda + k]);
      for (int j = 0; j < V; ++j) c[i][j] = Factor<F>::add_product(c[i][j], a, b[j]);
    }
  }
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < V; ++j) store(C + i * ldc + j * W<T>, c[i][j]);
}

// The last M < R rows in one tile of exactly that many.
template <int R, int V, class F, class T>
inline void remainder(int64_t M, int64_t K, const F* A, int64_t lda, const F* B, int64_t ldb,
                      T* C, int64_t ldc, bool add) {
  if constexpr (R > 1) {
    if (M == R - 1)
      tile<R - 1, V>(K, A, lda, B, ldb, C, ldc, add);
    else
      remainder<R - 1, V>(M, K, A, lda, B, ldb, C, ldc, add);
  }
}

template <int R, int V, class F, class T>
inline void rows(int64_t M, int64_t K, const F* A, int64_t lda, const F* B, int64_t ldb, T* C,
                 int64_t ldc, bool add) {
  int64_t i = 0;
  for (; i + R <= M; i += R) tile<R, V>(K, A + i * lda, lda, B, ldb, C + i * ldc, ldc, add);
  if (i < M) remainder<R, V>(M - i, K, A + i * lda, lda, B, ldb, C + i * ldc, ldc, add);
}

template <int V, class F, class T>
inline void panel(int vectors, int64_t M, int64_t K, const F* A, int64_t lda, const F* B,
                  int64_t ldb, T* C, int64_t ldc, bool add) {
  // A narrow panel takes more rows, to keep enough independent sums in flight.
  constexpr int R = V == 1 ? 2 * MR : V == 2 && NV > 2 ? MR + 2 : MR;
  if (vectors == V) return rows<R, V>(M, K, A, lda, B, ldb, C, ldc, add);
  if constexpr (V > 1) panel<V - 1>(vectors, M, K, A, lda, B, ldb, C, ldc, add);
}

// Rows [from, to) of the product, or of C + A B.
template <class T>
void gemm(int64_t from, int64_t to, int64_t N, int64_t K, const T* A, int64_t lda, const T* B,
          int64_t ldb, T* C, int64_t ldc, bool add = false) {
  if (from >= to) return;
  const bool pack = K * ldb * int64_t(sizeof(T)) > kPackAbove;
  const int64_t depth = K > kBlockAbove ? kDepth : K;
  static thread_local Array<T> packed;
  if (pack && int64_t(packed.size()) < depth * NV * W<T>) packed.resize(depth * NV * W<T>);
  for (int64_t k0 = 0; k0 < K; k0 += depth) {
    const int64_t k = std::min(depth, K - k0);
    for (int64_t column = 0; column < N; column += NV * W<T>) {
      const int v = int(std::min<int64_t>(NV, (N - column) / W<T>));
      const T* b = B + k0 * ldb + column;
      int64_t b_stride = ldb;
      if (pack) {
        b_stride = v * W<T>;
        for (int64_t j = 0; j < k; ++j)
          std::memcpy(&packed[j * b_stride], b + j * ldb, b_stride * sizeof(T));
        b = packed.data();
      }
      panel<NV>(v, to - from, k, A + from * lda + k0, lda, b, b_stride, C + from * ldc + column,
                ldc, add || k0 > 0);
    }
  }
}

}  // namespace
