// Transforms of an image to a few modes and back, by products with one complex table for each axis.
//
// Coefficients are (2, m0, m1): real parts, then imaginary ones. Tables are (rows, columns, 2).
#pragma once

#include "pixels.h"

struct TransformShape {
  int64_t n0, n1;  // points
  int64_t m0, m1;  // modes

  int64_t points() const { return n0 * n1; }
  int64_t modes() const { return m0 * m1; }
};

namespace {

// A complex table (rows, columns), if there is one, as a real matrix; both parts of element (r, c)
// go where `real` and `imaginary` send them.
template <class T, class Real, class Imaginary>
void deal(const T* table, int64_t rows, int64_t columns, Real real, Imaginary imaginary) {
  if (!table) return;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const T* z = table + 2 * (r * columns + c);
      real(r, c) = z[0];
      imaginary(r, c) = z[1];
    }
}

// first x last^T of a real image x, for tables first (m0, n0) and last (m1, n1), in two steps. The
// first table may be null where its step is not taken.
template <class T>
class Analysis {
 public:
  Analysis(const TransformShape& shape, const T* first, const T* last, Products product)
      : s_(shape), product_(product), ld_(padded<T>(2 * s_.m1)), first_(2 * s_.m0 * s_.n0),
        last_((s_.n1 + kSpare) * ld_, T(0)), parts_(2 * s_.m0 * ld_) {
    deal(last, s_.m1, s_.n1, [&](int64_t k, int64_t j) -> T& { return last_[j * ld_ + k]; },
         [&](int64_t k, int64_t j) -> T& { return last_[j * ld_ + s_.m1 + k]; });
    deal(first, s_.m0, s_.n0, [&](int64_t k, int64_t i) -> T& { return first_[k * s_.n0 + i]; },
         [&](int64_t k, int64_t i) -> T& { return first_[(s_.m0 + k) * s_.n0 + i]; });
  }

  // Numbers of a line between the steps.
  int64_t line() const { return ld_; }
  // x last^T of `rows` lines of `width` numbers, which begin at `column` and end in zeros, into
  // lines that are `to_stride` apart.
  void last_axis(int64_t rows, const T* x, int64_t stride, int64_t column, int64_t width, T* lines,
                 int64_t to_stride) const {
    product_(0, rows, ld_, width, x, stride, &last_[column * ld_], ld_, lines, to_stride,
             column > 0);
  }
  // The share of lines [from, to) in c, added to it or in its place.
  void first_axis(const T* lines, int64_t from, int64_t to, T* c, bool add) {
    product_(0, 2 * s_.m0, ld_, to - from, &first_[from], s_.n0, lines, ld_, parts_.data(), ld_);
    for (int64_t k = 0; k < s_.m0; ++k) {
      const T *re = &parts_[k * ld_], *im = &parts_[(s_.m0 + k) * ld_];  // of first
      T *out = c + k * s_.m1, *out_im = out + s_.modes();
      for (int64_t l = 0; l < s_.m1; ++l) {
        out[l] = (add ? out[l] : 0) + re[l] - im[s_.m1 + l];
        out_im[l] = (add ? out_im[l] : 0) + re[s_.m1 + l] + im[l];
      }
    }
  }

 private:
  static constexpr int64_t kSpare = 64;  // the widest tile reaches so far beyond a line

  TransformShape s_;
  Products product_;
  int64_t ld_;
  Array<T> first_, last_, parts_;
};

// Re(first c last^T) for tables first (n0, m0) and last (n1, m1), in two steps; likewise.
template <class T>
class Synthesis {
 public:
  Synthesis(const TransformShape& shape, const T* first, const T* last, Products product)
      : s_(shape), product_(product), ld_(padded<T>(2 * s_.m1)), width_(padded<T>(s_.n1)),
        first_(s_.n0 * 2 * s_.m0), last_(2 * s_.m1 * width_, T(0)),
        modes_(2 * s_.m0 * ld_, T(0)) {
    deal(first, s_.n0, s_.m0,
         [&](int64_t i, int64_t k) -> T& { return first_[i * 2 * s_.m0 + k]; },
         [&](int64_t i, int64_t k) -> T& { return first_[i * 2 * s_.m0 + s_.m0 + k]; });
    deal(last, s_.n1, s_.m1, [&](int64_t j, int64_t l) -> T& { return last_[l * width_ + j]; },
         [&](int64_t j, int64_t l) -> T& { return last_[(s_.m1 + l) * width_ + j]; });
    for (T* x = &last_[s_.m1 * width_]; x != last_.data() + last_.size(); ++x) *x = -*x;
  }

  // Numbers of a line between the steps.
  int64_t line() const { return ld_; }
  // Lines [from, to) of first c.
  void first_axis(const T* c, int64_t from, int64_t to, T* lines) {
    for (int64_t k = 0; k < s_.m0; ++k) {
      T *upper = &modes_[k * ld_], *lower = &modes_[(s_.m0 + k) * ld_];
      for (int64_t l = 0; l < s_.m1; ++l) {
        const T re = c[k * s_.m1 + l], im = c[s_.modes() + k * s_.m1 + l];
        upper[l] = re, upper[s_.m1 + l] = im;
        lower[l] = -im, lower[s_.m1 + l] = re;
      }
    }
    product_(0, to - from, ld_, 2 * s_.m0, &first_[from * 2 * s_.m0], 2 * s_.m0, modes_.data(), ld_,
         lines, ld_);
  }
  // A tile from a line of each channel, `stride` apart: columns from `column` on.
  void last_axis(int64_t channels, const T* lines, int64_t stride, int64_t column, int64_t width,
                 T* tile) const {
    const int64_t inside = std::min(width, width_ - column);
    product_(0, channels, inside, 2 * s_.m1, lines, stride, &last_[column], width_, tile, width);
  }

 private:
  TransformShape s_;
  Products product_;
  int64_t ld_, width_;
  Array<T> first_, last_, modes_;
};

}  // namespace
