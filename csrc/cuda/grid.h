// Arrays on the grids of one problem, dealt by rows to the blocks that share it.
#pragma once

#include "arguments.h"
#include "group.h"
#include "product.h"

namespace {

// Source or target of a level. A block holds rows [first, first + rows) of an array, padded to
// `padded_rows` rows of ld<T>() numbers.
struct Side {
  int n0, n1;
  int first, rows, padded_rows;

  DEVICE Side(const int* n, const Group& group) : n0(n[0]), n1(n[1]) {
    const int tiles = padded(n0) / kTile;
    const int share = (tiles + group.size() - 1) / group.size() * kTile;
    const auto cut = [](int x, int top) { return x < top ? x : top; };
    first = cut(group.rank() * share, tiles * kTile);
    padded_rows = cut(share, tiles * kTile - first);
    rows = first < n0 ? cut(padded_rows, n0 - first) : 0;
  }
  DEVICE int padded0() const { return padded(n0); }
  DEVICE int padded1() const { return padded(n1); }
  template <class T>
  DEVICE int ld() const {
    return stride_for<T>(n1);
  }
  DEVICE int in_grid(int i, int j) const { return (first + i) * n1 + j; }
};

// f(i, j) for the rows i of this block and all columns j, a warp to a row.
template <class F>
DEVICE void each(const Side& s, F f) {
  for (int i = warp(); i < s.rows; i += warps())
    for (int j = lane(); j < s.n1; j += kWarp) f(i, j);
}
template <class T>
DEVICE void zero_fill(const Side& s, T* x) {
  for (int i = thread(); i < s.padded_rows * s.ld<T>(); i += threads()) x[i] = 0;
}

}  // namespace
