// Mixing in tiles. Each mode is a product of real matrices, the pairs of whose factors are the parts
// of a complex number: beside x = (re, im), two columns of w make the parts of x w.
#pragma once

#include "mixing.h"
#include "tiles.h"
#include "transpose.h"

namespace {

template <class T, class F>
class Mixing;
template <class T, class F>
class WeightGradient;

#if VECTOR_BYTES == 64
// sum(r, c) = sum_d left(r, d) right(d, c) for 16 modes and up to 16 columns c.
class ModeProducts {
 public:
  // Signs that the columns of w get, and of its parts swapped, for the parts of the product.
  struct Signs {
    uint32_t real, imaginary;
  };
  static constexpr Signs kProduct{kSecondSign, 0}, kWithConjugate{0, kFirstSign},
      kOfConjugate{0, kSecondSign};

  // Rows that stay in cache.
  static int64_t rows_in_cache(int64_t rows, int64_t depth) {
    const int64_t some = (1 << 18) / (kTile * whole_tiles(depth)) / kTile * kTile;
    return std::min(whole_tiles(rows), std::max<int64_t>(some, kTile));
  }
  ModeProducts(int64_t rows, int64_t depth)
      : depth_(depth), ld_(whole_tiles(depth)), rows_(whole_tiles(rows)),
        left_(kTile * left_stride(), 0), right_(kTile * right_stride(), 0),
        sums_(kTile * sum_stride()) {}

  // number(d) is left(row, d), of all modes.
  template <class Number>
  void set_left(int64_t row, Number number) {
    for (int64_t d = 0; d < ld_; d += kTile)
      turn([&](int64_t i) { return d + i < depth_ ? number(d + i) : Pairs{}; },
           &left_[row * ld_ + d], left_stride());
  }
  // number(c) is right(d, c) for c below `columns`.
  template <class Number>
  void set_right(int64_t d, int64_t columns, Signs signs, Number number) {
    alignas(64) uint32_t modes[kTile * kTile];
    turn([&](int64_t i) { return i < columns ? number(i) : Pairs{}; }, modes, kTile);
    for (int64_t k = 0; k < kTile; ++k) {
      const Pairs w = load(modes + k * kTile);
      uint32_t* row = &right_[k * right_stride() + d * 2 * kTile];
      store(row, w ^ signs.real);
      store(row + kTile, swapped(w) ^ signs.imaginary);
    }
  }
  void multiply(int64_t rows) {
    const TileShapes shapes;
    for (int64_t k = 0; k < kTile; ++k)
      for (int64_t r = 0; r < rows; r += 2 * kTile) {
        const uint32_t *left = &left_[k * left_stride() + r * ld_],
                       *right = &right_[k * right_stride()];
        float* sum = &sums_[k * sum_stride() + r * 2 * kTile];
        (rows - r > kTile ? tile_sums<2, 2> : tile_sums<1, 2>)(ld_, left, ld_, right, 2 * kTile,
                                                               sum, 2 * kTile, false);
      }
  }
  // f(c, real, imaginary) for the columns of a row of sums, in vectors of modes.
  template <class F>
  void each_sum(int64_t row, int64_t columns, F f) {
    alignas(64) float real[kTile * kTile], imaginary[kTile * kTile];
    const float* sums = &sums_[row * 2 * kTile];
    transpose(kTile, kTile, sums, sum_stride(), real, kTile);
    transpose(kTile, kTile, sums + kTile, sum_stride(), imaginary, kTile);
    for (int64_t c = 0; c < columns; ++c)
      f(c, load(real + c * kTile), load(imaginary + c * kTile));
  }

 private:
  // Numbers between modes: not a power of two, so that those of one entry do not evict each other.
  int64_t left_stride() const { return rows_ * ld_ + kTile; }
  int64_t right_stride() const { return (2 * ld_ + 1) * kTile; }
  int64_t sum_stride() const { return (2 * rows_ + 1) * kTile; }

  // 16 numbers of 16 modes each, beside each other for every mode.
  template <class Number>
  static void turn(Number number, uint32_t* out, int64_t stride) {
    alignas(64) uint32_t rows[kTile * kTile];
    for (int64_t i = 0; i < kTile; ++i) store(rows + i * kTile, number(i));
    transpose(kTile, kTile, rows, kTile, out, stride);
  }

  int64_t depth_, ld_, rows_;
  Array<uint32_t> left_, right_;
  Array<float> sums_;
};

// Samples below which turning the weights takes longer than exact products do.
constexpr int64_t kWorthTiles = 8;

struct Tiled {};

template <>
class Mixing<float, Tiled> {
 public:
  Mixing(int64_t batch, int64_t q, int64_t p, int64_t modes, const float* weight, int64_t stride_q,
         int64_t stride_p, bool conjugate, int, Finish<float> finish)
      : batch_(batch), q_(q), p_(p), modes_(modes), weight_(weight), stride_q_(stride_q),
        stride_p_(stride_p), conjugate_(conjugate), finish_(finish),
        chunk_(ModeProducts::rows_in_cache(batch, q)), products_(chunk_, q) {}

  void operator()(const float* in, int64_t from, int64_t to, float* out) {
    for (int64_t b = 0; b < batch_; b += chunk_)
      for (int64_t j = 0; j < blocks<float>(modes_); ++j)
        block(in, b, std::min(chunk_, batch_ - b), begin<float>(j, modes_), from, to, out);
  }

 private:
  static constexpr int64_t kAhead = 2;  // rows that are fetched before their turn

  // Samples b0 + [0, samples), modes from k on.
  void block(const float* in, int64_t b0, int64_t samples, int64_t k, int64_t from, int64_t to,
             float* out) {
    const int64_t count = std::min<int64_t>(modes_, kTile);
    for (int64_t b = 0; b < samples; ++b)
      products_.set_left(b, [&](int64_t q) {
        const float* re = in + ((b0 + b) * q_ + q) * 2 * modes_ + k;
        return rounded_lanes(load_some(re, count), load_some(re + modes_, count));
      });
    for (int64_t p0 = from; p0 < to; p0 += kTile) {
      const int64_t columns = std::min<int64_t>(kTile, to - p0);
      for (int64_t q = 0; q < q_; ++q)
        products_.set_right(q, columns,
                            conjugate_ ? ModeProducts::kWithConjugate : ModeProducts::kProduct,
                            [&](int64_t p) {
                              const float* w =
                                  weight_ + q * stride_q_ + (p0 + p) * stride_p_ + 2 * k;
                              for (int i = 0; i < 2; ++i)
                                __builtin_prefetch(w + kAhead * stride_q_ + i * kTile);
                              return rounded_pairs(w, count);
                            });
      products_.multiply(samples);
      for (int64_t b = 0; b < samples; ++b)
        products_.each_sum(b, columns, [&](int64_t p, Vec<float> re, Vec<float> im) {
          if (finish_.bias) {
            float parts[2 * kTile];
            load_pairs(finish_.bias + ((p0 + p) * modes_ + k) * 2, count, parts, parts + kTile);
            re += load(parts);
            im += load(parts + kTile);
          }
          const int64_t at = ((b0 + b) * p_ + p0 + p) * 2 * modes_ + k;
          finish_(re, count, at, out);
          finish_(im, count, at + modes_, out);
        });
    }
  }

  int64_t batch_, q_, p_, modes_;
  const float* weight_;
  int64_t stride_q_, stride_p_;
  bool conjugate_;
  Finish<float> finish_;
  int64_t chunk_;
  ModeProducts products_;
};

template <>
class WeightGradient<float, Tiled> {
 public:
  WeightGradient(const MixingArguments& args, const float* dz)
      : args_(args), dz_(dz), chunk_(ModeProducts::rows_in_cache(args.in, args.batch)),
        products_(chunk_, args.batch) {}

  void operator()(int64_t from, int64_t to) {
    const int64_t modes = args_.modes, count = std::min<int64_t>(modes, kTile);
    for (int64_t j = 0; j < blocks<float>(modes); ++j)
      for (int64_t q = from; q < to; q += chunk_)
        block(q, std::min(chunk_, to - q), begin<float>(j, modes), count);
  }

 private:
  void block(int64_t q0, int64_t rows, int64_t k, int64_t count) {
    const int64_t modes = args_.modes;
    const auto number = [&](const void* x, int64_t row) {
      const float* re = static_cast<const float*>(x) + row * 2 * modes + k;
      return rounded_lanes(load_some(re, count), load_some(re + modes, count));
    };
    for (int64_t q = 0; q < rows; ++q)
      products_.set_left(q, [&](int64_t b) { return number(args_.x, b * args_.in + q0 + q); });
    for (int64_t p0 = 0; p0 < args_.out; p0 += kTile) {
      const int64_t columns = std::min<int64_t>(kTile, args_.out - p0);
      for (int64_t b = 0; b < args_.batch; ++b)
        products_.set_right(b, columns, ModeProducts::kOfConjugate,
                            [&](int64_t p) { return number(dz_, b * args_.out + p0 + p); });
      products_.multiply(rows);
      for (int64_t q = 0; q < rows; ++q)
        products_.each_sum(q, columns, [&](int64_t p, Vec<float> re, Vec<float> im) {
          const int64_t at = ((q0 + q) * args_.out + p0 + p) * modes + k;
          store_pairs(re, im, count, static_cast<float*>(args_.dweight) + 2 * at);
        });
    }
  }

  const MixingArguments& args_;
  const float* dz_;
  int64_t chunk_;
  ModeProducts products_;
};
#endif

}  // namespace
