// act(w2 gelu(w1 x + b1) + b2 + gate * r) on one tile of pixels after the other.
#pragma once

#include "pixels.h"

// w1 is (hidden, in), w2 (out, hidden). b1, b2 and gate may be null: no bias, and gate 1. d* are
// gradients, which are added to; null where there is no argument, and all where none is asked for.
struct MlpArguments {
  int64_t in, hidden, out;
  const void *w1, *b1, *w2, *b2, *gate;
  void *dw1, *db1, *dw2, *db2, *dgate;
};

namespace {

template <class T>
T entry(const void* x, int64_t i, T otherwise) {
  return x ? static_cast<const T*>(x)[i] : otherwise;
}
template <class T>
class PointwiseMlp {
 public:
  // Tiles are `width` pixels wide.
  PointwiseMlp(const MlpArguments& args, bool gelu, int64_t width, Products product,
               bool backward)
      : args_(args), gelu_(gelu), width_(width),
        w1_(args.hidden, args.in, static_cast<const T*>(args.w1), width, product, backward,
            args.dw1),
        w2_(args.out, args.hidden, static_cast<const T*>(args.w2), width, product, backward,
            args.dw2),
        h_(args.hidden * width) {
    if (!backward) return;
    z_.resize(args.out * width_);
    slope_.resize(h_.size());
    dh_.resize(h_.size());
    db1_ = ChannelSums<T>(args.hidden);
    db2_ = ChannelSums<T>(args.out);
    dgate_ = ChannelSums<T>(args.out);
  }

  // r may be null.
  void forward(const T* x, const T* r, T* y) {
    hidden(x, nullptr);
    w2_.times(h_.data(), y);
    each_row(args_.out, [&](int64_t o, int64_t from, int64_t to) {
      const T bias = entry(args_.b2, o, T(0)), gate = entry(args_.gate, o, T(1));
      for (int64_t i = from; i < to; i += W<T>) {
        const Vec<T> z = sum(y, bias, r, gate, i);
        store(y + i, gelu_ ? gelu(z).value : z);
      }
    });
  }
  // On entry y is dy; x and r become their gradients, and y is of no use.
  void backward(T* x, T* r, T* y) {
    hidden(x, slope_.data());
    if (gelu_) w2_.times(h_.data(), z_.data());
    each_row(args_.out, [&](int64_t o, int64_t from, int64_t to) {
      const T bias = entry(args_.b2, o, T(0)), gate = entry(args_.gate, o, T(1));
      Vec<T> total{}, gated{};
      for (int64_t i = from; i < to; i += W<T>) {
        Vec<T> dz = load(y + i);
        if (gelu_) dz *= gelu(sum(z_.data(), bias, r, gate, i)).slope;
        store(y + i, dz);
        total += dz;
        if (!r) continue;
        gated += dz * load(r + i);
        store(r + i, gate * dz);
      }
      db2_.add(o, total);
      dgate_.add(o, gated);
    });
    w2_.accumulate(y, h_.data());
    w2_.transposed_times(y, dh_.data());
    each_row(args_.hidden, [&](int64_t k, int64_t from, int64_t to) {
      Vec<T> total{};
      for (int64_t i = from; i < to; i += W<T>) {
        const Vec<T> dz = load(&dh_[i]) * load(&slope_[i]);
        store(&dh_[i], dz);
        total += dz;
      }
      db1_.add(k, total);
    });
    w1_.accumulate(dh_.data(), x);
    w1_.transposed_times(dh_.data(), x);
  }
  void add_gradients() const {
    w1_.add_gradient(static_cast<T*>(args_.dw1));
    w2_.add_gradient(static_cast<T*>(args_.dw2));
    db1_.add_to(args_.db1);
    db2_.add_to(args_.db2);
    dgate_.add_to(args_.dgate);
  }

 private:
  // f(row, from, to) for the rows of a tile.
  template <class F>
  void each_row(int64_t rows, F f) const {
    for (int64_t r = 0; r < rows; ++r) f(r, r * width_, (r + 1) * width_);
  }
  void hidden(const T* x, T* slope) {
    w1_.times(x, h_.data());
    each_row(args_.hidden, [&](int64_t k, int64_t from, int64_t to) {
      const T bias = entry(args_.b1, k, T(0));
      for (int64_t i = from; i < to; i += W<T>) {
        const auto g = gelu(load(&h_[i]) + bias);
        store(&h_[i], g.value);
        if (slope) store(slope + i, g.slope);
      }
    });
  }
  static Vec<T> sum(const T* product, T bias, const T* r, T gate, int64_t i) {
    const Vec<T> z = load(product + i) + bias;
    return r ? z + gate * load(r + i) : z;
  }

  const MlpArguments& args_;
  const bool gelu_;
  const int64_t width_;
  Weight<T> w1_, w2_;
  Array<T> h_, z_, slope_, dh_;
  ChannelSums<T> db1_, db2_, dgate_;
};

}  // namespace
