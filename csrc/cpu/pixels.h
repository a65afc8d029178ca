// Tiles of a few pixels and all channels, whose products stay in the first-level cache.
#pragma once

#include "gelu.h"
#include "grid.h"
#include "products.h"
#include "stretch.h"

namespace {

// How the pixels of an image, `lines` of `length`, make tiles: pieces of a line, and slabs of a few
// of them that follow one another in memory. A slab is loaded at once, because short pieces of many
// channels, which lie a power of two apart, evict each other.
template <class T>
class Tiling {
 public:
  Tiling(int64_t lines, int64_t length)
      : length_(length), width_(std::min(kMost, padded<T>(length))),
        across_((length + kMost - 1) / kMost), tiles_(lines * across_),
        per_slab_(std::min<int64_t>(tiles_, (256 + width_ - 1) / width_)) {}

  // Numbers between the channels of a tile in the cache.
  int64_t width() const { return width_; }
  int64_t per_slab() const { return per_slab_; }
  int64_t slabs() const { return (tiles_ + per_slab_ - 1) / per_slab_; }
  int64_t end(int64_t slab) const { return std::min(tiles_, (slab + 1) * per_slab_); }
  // Where a tile begins.
  int64_t line(int64_t tile) const { return tile / across_; }
  int64_t column(int64_t tile) const { return tile % across_ * kMost; }

  // The slab's part of an image, channels `stride` apart, into tiles one after the other, with
  // zeros behind each line.
  void load(int64_t slab, int64_t channels, const T* x, int64_t stride, T* tiles) const {
    each_piece(slab, channels, [&](int64_t r, int64_t at, int64_t count, int64_t place) {
      std::memcpy(tiles + place, x + r * stride + at, count * sizeof(T));
      std::fill(tiles + place + count, tiles + place + width_, T(0));
    });
  }
  void store(int64_t slab, int64_t channels, const T* tiles, int64_t stride, T* x) const {
    each_piece(slab, channels, [&](int64_t r, int64_t at, int64_t count, int64_t place) {
      std::memcpy(x + r * stride + at, tiles + place, count * sizeof(T));
    });
  }

 private:
  static constexpr int64_t kMost = NV * W<T> * std::max(1, 64 / (NV * W<T>));  // whole panels

  template <class F>
  void each_piece(int64_t slab, int64_t channels, F f) const {
    for (int64_t r = 0; r < channels; ++r)
      for (int64_t tile = slab * per_slab_; tile < end(slab); ++tile)
        f(r, line(tile) * length_ + column(tile), std::min(kMost, length_ - column(tile)),
          ((tile - slab * per_slab_) * channels + r) * width_);
  }

  int64_t length_, width_, across_, tiles_, per_slab_;
};

// Sums over the pixels of each channel, by lanes until they are asked for.
template <class T>
class ChannelSums {
 public:
  explicit ChannelSums(int64_t channels = 0) : lanes_(channels * W<T>, T(0)) {}

  void add(int64_t channel, Vec<T> x) {
    T* at = &lanes_[channel * W<T>];
    store(at, load(at) + x);
  }
  void add_to(void* out) const {
    for (size_t i = 0; out && i < lanes_.size(); i += W<T>)
      static_cast<T*>(out)[i / W<T>] += T(hsum(load(&lanes_[i])));
  }

 private:
  Array<T> lanes_;
};

// A pointwise layer's weight (rows, columns), and its gradient, of padded rows, where asked for.
template <class T>
class Weight {
 public:
  Weight(int64_t rows, int64_t columns, const T* data, int64_t width, Products product,
         bool backward, bool with_gradient)
      : rows_(rows), columns_(columns), width_(width), product_(product), data_(data) {
    if (!backward || !data) return;
    transposed_.resize(rows * columns);
    transpose(rows, columns, data, columns, transposed_.data(), rows);
    if (!with_gradient) return;
    turned_.assign(width * padded<T>(columns), T(0));
    gradient_.assign(rows * padded<T>(columns), T(0));
  }

  // out = w x on a tile, or out += w x.
  void times(const T* x, T* out, bool add = false) const {
    product_(0, rows_, width_, columns_, data_, columns_, x, width_, out, width_, add);
  }
  void transposed_times(const T* x, T* out) const {
    product_(0, columns_, width_, rows_, transposed_.data(), rows_, x, width_, out, width_);
  }
  // The gradient from that of w x, and x.
  void accumulate(const T* dy, const T* x) {
    if (gradient_.empty()) return;
    const int64_t ld = padded<T>(columns_);
    transpose(columns_, width_, x, width_, turned_.data(), ld);
    product_(0, rows_, ld, width_, dy, width_, turned_.data(), ld, gradient_.data(), ld, true);
  }
  void add_gradient(T* out) const {
    for (int64_t r = 0; out && r < rows_; ++r)
      for (int64_t c = 0; c < columns_; ++c)
        out[r * columns_ + c] += gradient_[r * padded<T>(columns_) + c];
  }

 private:
  int64_t rows_, columns_, width_;
  Products product_;
  const T* data_;
  Array<T> transposed_, turned_, gradient_;
};

}  // namespace
