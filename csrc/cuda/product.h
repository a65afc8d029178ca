// Products of small matrices on the tensor cores.
#pragma once

#include <type_traits>

#include "device.h"

namespace {

constexpr int kTile = 16;  // lengths are padded to multiples of it

HOST_DEVICE constexpr int padded(int n) { return (n + kTile - 1) / kTile * kTile; }
// Numbers between rows: past a multiple of 16, so that the loads of a fragment meet every bank
// once.
template <class T>
HOST_DEVICE constexpr int stride_for(int n) {
  return padded(n) + (sizeof(T) == 4 ? 4 : 8);
}

// A matrix of rows i and depth k, element (i, k) at i * ld + k, or at k * ld + i if transposed.
template <class T>
struct Operand {
  const T* data;
  int ld;
  bool transposed = false;
  bool shared = true;  // in shared memory
};

// How a warp gets at an operand: as above, transposed, or as above by the loads for matrices that
// shared memory has for floats.
enum class Access { kPlain, kTransposed, kMatrices };

// The order of the depth does not matter to a sum, if it is the same in both operands: doubles have
// the neighbours 2t and 2t + 1, one load of both, in the slots t and t + 4 of the instruction.
template <Access how, class T>
DEVICE void load_slots(const Operand<T>& x, int i, int k, T& first, T& second) {
  const int t = lane() % 4;
  const int low = k + (sizeof(T) == 4 ? t : 2 * t), high = low + (sizeof(T) == 4 ? 4 : 1);
  if constexpr (how == Access::kTransposed) {
    first = x.data[low * x.ld + i], second = x.data[high * x.ld + i];
  } else if constexpr (sizeof(T) == 4) {
    first = x.data[i * x.ld + low], second = x.data[i * x.ld + high];
  } else {
    const auto both = *reinterpret_cast<const Pair<T>*>(x.data + i * x.ld + low);
    first = both.x, second = both.y;
  }
}

// Rows i to i + 15 and depth k to k + 7, for the left side of a product.
template <Access how, class T>
DEVICE void load_left(const Operand<T>& x, int i, int k, T (&a)[4]) {
  if constexpr (how == Access::kMatrices) {
    const int row = i + lane() % 16, at = k + lane() / 16 * 4;
    load_matrices(x.data + row * x.ld + at, a);
  } else {
    const int g = lane() / 4;
    load_slots<how>(x, i + g, k, a[0], a[2]);
    load_slots<how>(x, i + 8 + g, k, a[1], a[3]);
  }
}
// The same for the right side: twice 8 columns of the product.
template <Access how, class T>
DEVICE void load_right(const Operand<T>& x, int i, int k, T (&b)[2], T (&next)[2]) {
  if constexpr (how == Access::kMatrices) {
    const int row = i + lane() % 8 + lane() / 16 * 8, at = k + lane() / 8 % 2 * 4;
    T all[4];
    load_matrices(x.data + row * x.ld + at, all);
    b[0] = all[0], b[1] = all[1], next[0] = all[2], next[1] = all[3];
  } else {
    const int g = lane() / 4;
    load_slots<how>(x, i + g, k, b[0], b[1]);
    load_slots<how>(x, i + 8 + g, k, next[0], next[1]);
  }
}

// One warp: out(i, j, x, y) receives elements (i, j) and (i, j + 1) of A B^T, for a square of
// 16 Tiles from (row, column).
template <int Tiles, Access kA, Access kB, class T, class Out>
DEVICE void tile(const Operand<T>& A, const Operand<T>& B, int rows, int columns, int depth,
                 int row, int column, const Out& out) {
  T c[Tiles][2 * Tiles][4] = {};
  // A tile that reaches beyond the matrix loads its last rows again.
  const auto within = [](int i, int length) { return i < length ? i : length - 16; };
#pragma unroll 2
  for (int k = 0; k < depth; k += 8) {
    T a[Tiles][4], b[2 * Tiles][2];
#pragma unroll
    for (int r = 0; r < Tiles; ++r) load_left<kA>(A, within(row + 16 * r, rows), k, a[r]);
#pragma unroll
    for (int s = 0; s < Tiles; ++s)
      load_right<kB>(B, within(column + 16 * s, columns), k, b[2 * s], b[2 * s + 1]);
#pragma unroll
    for (int r = 0; r < Tiles; ++r)
#pragma unroll
      for (int s = 0; s < 2 * Tiles; ++s) multiply(c[r][s], a[r], b[s]);
  }
  const int g = lane() / 4, t = lane() % 4;
#pragma unroll
  for (int r = 0; r < Tiles; ++r)
#pragma unroll
    for (int s = 0; s < 2 * Tiles; ++s) {
      const int i = row + 16 * r + g, j = column + 8 * s + 2 * t;
      if (row + 16 * r >= rows || column + 8 * s >= columns) continue;
      out(i, j, c[r][s][0], c[r][s][1]);
      out(i + 8, j, c[r][s][2], c[r][s][3]);
    }
}

// A B^T, shared among the warps of a block; rows, columns and depth are padded lengths.
template <Access kA, Access kB, class T, class Out>
DEVICE void product(const Operand<T>& A, const Operand<T>& B, int rows, int columns, int depth,
                    const Out& out) {
  const auto in_tiles = [&](auto size) {
    constexpr int tiles = decltype(size)::value, length = 16 * tiles;
    const int across = (columns + length - 1) / length;
    const int count = (rows + length - 1) / length * across;
    for (int i = warp(); i < count; i += warps())
      tile<tiles, kA, kB>(A, B, rows, columns, depth, i / across * length, i % across * length,
                          out);
  };
  if (rows / 32 * (columns / 32) >= warps())
    in_tiles(std::integral_constant<int, 2>());
  else
    in_tiles(std::integral_constant<int, 1>());
}

// The best access to an operand that is in shared memory and not transposed.
template <class T>
constexpr Access kInShared = sizeof(T) == 4 ? Access::kMatrices : Access::kPlain;

// f(std::integral_constant<Access>, x) for the access that x asks for.
template <class T, class F>
DEVICE void with_access(const Operand<T>& x, F f) {
  const auto call = [&](auto plain, const Operand<T>& found) {
    if (found.transposed)
      f(std::integral_constant<Access, Access::kTransposed>(), found);
    else
      f(plain, found);
  };
  if (x.shared)
    call(std::integral_constant<Access, kInShared<T>>(),
         Operand<T>{in_shared(x.data), x.ld, x.transposed});
  else
    call(std::integral_constant<Access, Access::kPlain>(), x);
}

}  // namespace
