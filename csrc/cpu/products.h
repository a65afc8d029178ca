// Products of matrices whose factors may be rounded.
#pragma once

#include <type_traits>

#include "tiles.h"

namespace {

// What the caller asks for and knows that the processor can: factors as they are, or of bfloat16 in
// vectors or in tiles.
enum Rounding { kExact, kVectors, kTiles };

// gemm().
class Products {
 public:
  explicit Products(int rounding) : rounding_(rounding) {}

  template <class T>
  void operator()(int64_t from, int64_t to, int64_t N, int64_t K, const T* A, int64_t lda,
                  const T* B, int64_t ldb, T* C, int64_t ldc, bool add = false) const {
#if VECTOR_BYTES == 64
    if constexpr (std::is_same_v<T, float>) {
      if (rounding_ == kTiles) return tiled_gemm(from, to, N, K, A, lda, B, ldb, C, ldc, add);
      if (rounding_ == kVectors) return rounded_gemm(from, to, N, K, A, lda, B, ldb, C, ldc, add);
    }
#endif
    gemm(from, to, N, K, A, lda, B, ldb, C, ldc, add);
  }

 private:
  [[maybe_unused]] int rounding_;
};

}  // namespace
