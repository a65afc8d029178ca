// Products in tile registers (AMX), of factors rounded to bfloat16: sixteen times as many operations
// per instruction as with vectors.
//
// A tile is 16 rows of 64 bytes: of a left factor 16 rows of 16 pairs, of a right one 16 rows of
// pairs of 16 columns, of a sum 16 rows of 16 floats.
#pragma once

#include "bfloat16.h"

namespace {

#if VECTOR_BYTES == 64
constexpr int kTile = 16;  // rows, and numbers of four bytes in each

inline int64_t whole_tiles(int64_t x) { return (x + kTile - 1) / kTile * kTile; }

// The shape of all tiles, on this thread, while this lives. Not to be nested.
class TileShapes {
 public:
  TileShapes() {
    alignas(64) static constexpr struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {kTile, kTile, kTile, kTile, kTile, kTile, kTile, kTile};
    } all;
    asm volatile("ldtilecfg %0" ::"m"(all));
  }
  ~TileShapes() { asm volatile("tilerelease"); }
  TileShapes(const TileShapes&) = delete;
};

template <int I>
inline void clear_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(I));
}
// Rows are `stride` numbers of four bytes apart.
template <int I>
inline void load_tile(const void* from, int64_t stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(I), "r"(from), "r"(4 * stride) : "memory");
}
template <int I>
inline void store_tile(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(I), "r"(to), "r"(4 * stride) : "memory");
}
template <int Sum, int Left, int Right>
inline void add_tile_product() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(Left), "i"(Right));
}

// C or C + A B of R x V tiles, sums in tiles 0 to 3; rows of A are lda pairs, those of B ldb.
template <int R, int V>
inline void tile_sums(int64_t depth, const uint32_t* A, int64_t lda, const uint32_t* B,
                      int64_t ldb, float* C, int64_t ldc, bool add) {
  const auto each_sum = [&](auto f) {
    f(std::integral_constant<int, 0>(), C);
    if constexpr (V == 2) f(std::integral_constant<int, 1>(), C + kTile);
    if constexpr (R == 2) f(std::integral_constant<int, 2>(), C + kTile * ldc);
    if constexpr (R == 2 && V == 2) f(std::integral_constant<int, 3>(), C + kTile * (ldc + 1));
  };
  each_sum([&](auto sum, const float* c) {
    add ? load_tile<sum()>(c, ldc) : clear_tile<sum()>();
  });
  for (int64_t k = 0; k < depth; k += kTile, A += kTile, B += kTile * ldb) {
    load_tile<4>(A, lda);
    load_tile<6>(B, ldb);
    add_tile_product<0, 4, 6>();
    if constexpr (V == 2) {
      load_tile<7>(B + kTile, ldb);
      add_tile_product<1, 4, 7>();
    }
    if constexpr (R == 2) {
      load_tile<5>(A + kTile * lda, lda);
      add_tile_product<2, 5, 6>();
      if constexpr (V == 2) add_tile_product<3, 5, 7>();
    }
  }
  each_sum([&](auto sum, float* c) { store_tile<sum()>(c, ldc); });
}

// The same for up to two tiles of rows, of which C may end before the last one does.
template <int V>
inline void tile_rows(int64_t rows, int64_t depth, const uint32_t* A, int64_t lda,
                      const uint32_t* B, int64_t ldb, float* C, int64_t ldc, bool add) {
  if (rows == 2 * kTile) return tile_sums<2, V>(depth, A, lda, B, ldb, C, ldc, add);
  if (rows == kTile) return tile_sums<1, V>(depth, A, lda, B, ldb, C, ldc, add);
  alignas(64) float whole[2 * kTile][V * kTile];
  constexpr int64_t line = V * kTile;
  for (int64_t r = 0; add && r < rows; ++r) std::memcpy(whole[r], C + r * ldc, sizeof whole[r]);
  if (rows > kTile)
    tile_sums<2, V>(depth, A, lda, B, ldb, whole[0], line, add);
  else
    tile_sums<1, V>(depth, A, lda, B, ldb, whole[0], line, add);
  for (int64_t r = 0; r < rows; ++r) std::memcpy(C + r * ldc, whole[r], sizeof whole[r]);
}

// gemm() of rounded factors.
inline void tiled_gemm(int64_t from, int64_t to, int64_t N, int64_t K, const float* A, int64_t lda,
                       const float* B, int64_t ldb, float* C, int64_t ldc, bool add) {
  const int64_t rows = to - from;
  if (rows <= 0) return;
  const int64_t most = std::min(K, 2 * kDepth), pairs = whole_tiles((most + 1) / 2);
  static thread_local Array<uint32_t> a, b;
  if (int64_t(a.size()) < whole_tiles(rows) * pairs) a.resize(whole_tiles(rows) * pairs);
  if (int64_t(b.size()) < pairs * 2 * kTile) b.resize(pairs * 2 * kTile);
  const TileShapes shapes;
  for (int64_t k0 = 0; k0 < K; k0 += most) {
    const int64_t k = std::min(most, K - k0), some = (k + 1) / 2, depth = whole_tiles(some);
    round_rows(rows, k, A + from * lda + k0, lda, depth, a.data());
    for (int64_t column = 0; column < N; column += 2 * kTile) {
      const int v = N - column > kTile ? 2 : 1;
      round_columns(k, B + k0 * ldb + column, ldb, v, b.data());
      std::fill(&b[some * v * kTile], &b[depth * v * kTile], 0u);
      for (int64_t r = 0; r < rows; r += 2 * kTile) {
        const int64_t count = std::min<int64_t>(rows - r, 2 * kTile);
        float* c = C + (from + r) * ldc + column;
        (v == 2 ? tile_rows<2> : tile_rows<1>)(count, depth, &a[r * depth], depth, b.data(),
                                               v * kTile, c, ldc, add || k0 > 0);
      }
    }
  }
}
#endif

}  // namespace
