// Products of channels, one complex matrix for each mode.

#include <tuple>

#include "pixels.h"

// Coefficients are (batch, channels, 2, modes), weights (in, out, modes, 2), of floats where single
// is set.
struct MixingArguments {
  int64_t batch, in, out, modes;
  int single;
  const void *x, *weight;
  int threads;
  void* y;
  const void* dy;
  void *dx, *dweight;
};

namespace {

constexpr int kSamples = 4, kOutputs = 2;  // of a tile of sums

template <class T>
struct Complex {
  Vec<T> re, im;
};
template <class T>
Complex<T> load_complex(const T* x) {
  return {load(x), load(x + W<T>)};
}

// A vector's worth of modes, from k on, of coefficients (rows, 2, modes), as (rows, 2, W).
template <class T>
void pack(int64_t rows, int64_t modes, int64_t k, const T* x, Array<T>& out) {
  out.resize(rows * 2 * W<T>);
  const int64_t count = std::min<int64_t>(W<T>, modes - k);
  for (int64_t r = 0; r < 2 * rows; ++r) {
    T* to = &out[r * W<T>];
    if (count == W<T>) {
      store(to, load(x + r * modes + k));
    } else {
      std::fill_n(to, W<T>, T(0));
      std::copy_n(x + r * modes + k, count, to);
    }
  }
}

// out(b, p) = sum_q w(q, p) in(b, q), or with the conjugate of w; w(q, p) stands at
// weight + (q * stride_q + p * stride_p).
template <class T>
class Mixing {
 public:
  Mixing(int64_t batch, int64_t q, int64_t p, int64_t modes, const T* weight, int64_t stride_q,
         int64_t stride_p, bool conjugate)
      : batch_(batch), q_(q), p_(p), modes_(modes), weight_(weight), stride_q_(stride_q),
        stride_p_(stride_p), conjugate_(conjugate), w_(q * kOutputs * 2 * W<T>, T(0)) {}

  // Outputs [from, to).
  void operator()(const T* in, int64_t from, int64_t to, T* out) {
    for (int64_t k = 0; k < modes_; k += W<T>) {
      pack(batch_ * q_, modes_, k, in, in_);
      for (int64_t p = from; p < to; p += kOutputs) {
        const int outputs = int(std::min<int64_t>(kOutputs, to - p));
        gather(p, outputs, k);
        int64_t b = 0;
        for (; b + kSamples <= batch_; b += kSamples) tile<kSamples>(b, p, outputs, k, out);
        for (; b < batch_; ++b) tile<1>(b, p, outputs, k, out);
      }
    }
  }

 private:
  void gather(int64_t p, int outputs, int64_t k) {
    for (int64_t q = 0; q < q_; ++q)
      for (int o = 0; o < outputs; ++o) {
        T* to = &w_[(q * kOutputs + o) * 2 * W<T>];
        load_pairs(weight_ + q * stride_q_ + (p + o) * stride_p_ + 2 * k, modes_ - k, to,
                   to + W<T>);
        if (conjugate_) store(to + W<T>, -load(to + W<T>));
      }
  }
  template <int B>
  void tile(int64_t b, int64_t p, int outputs, int64_t k, T* out) const {
    Complex<T> sum[B][kOutputs] = {};
    for (int64_t q = 0; q < q_; ++q) {
      const T* w = &w_[q * kOutputs * 2 * W<T>];
      const auto w0 = load_complex(w), w1 = load_complex(w + 2 * W<T>);
      for (int s = 0; s < B; ++s) {
        const auto x = load_complex(&in_[((b + s) * q_ + q) * 2 * W<T>]);
        add(sum[s][0], x, w0);
        add(sum[s][1], x, w1);
      }
    }
    const int64_t bytes = std::min<int64_t>(W<T>, modes_ - k) * sizeof(T);
    for (int s = 0; s < B; ++s)
      for (int o = 0; o < outputs; ++o) {
        T* to = out + ((b + s) * p_ + p + o) * 2 * modes_ + k;
        std::memcpy(to, &sum[s][o].re, bytes);
        std::memcpy(to + modes_, &sum[s][o].im, bytes);
      }
  }
  static void add(Complex<T>& sum, const Complex<T>& x, const Complex<T>& w) {
    sum.re += x.re * w.re - x.im * w.im;
    sum.im += x.re * w.im + x.im * w.re;
  }

  int64_t batch_, q_, p_, modes_;
  const T* weight_;
  int64_t stride_q_, stride_p_;
  bool conjugate_;
  Array<T> w_, in_;
};

// dw(q, p) = sum_b conj(x(b, q)) dy(b, p) for the rows q in [from, to).
template <class T>
void weight_gradient(const MixingArguments& args, int64_t from, int64_t to) {
  Array<T> x, dy;
  for (int64_t k = 0; k < args.modes; k += W<T>) {
    pack(args.batch * args.in, args.modes, k, static_cast<const T*>(args.x), x);
    pack(args.batch * args.out, args.modes, k, static_cast<const T*>(args.dy), dy);
    for (int64_t q = from; q < to; ++q)
      for (int64_t p = 0; p < args.out; p += kSamples) {
        const int64_t outputs = std::min<int64_t>(kSamples, args.out - p);
        Complex<T> sum[kSamples] = {};
        for (int64_t b = 0; b < args.batch; ++b) {
          const auto u = load_complex(&x[(b * args.in + q) * 2 * W<T>]);
          for (int64_t o = 0; o < outputs; ++o) {
            const auto v = load_complex(&dy[(b * args.out + p + o) * 2 * W<T>]);
            sum[o].re += u.re * v.re + u.im * v.im;
            sum[o].im += u.re * v.im - u.im * v.re;
          }
        }
        for (int64_t o = 0; o < outputs; ++o)
          store_pairs<T>(sum[o].re, sum[o].im, args.modes - k,
                         static_cast<T*>(args.dweight) +
                             ((q * args.out + p + o) * args.modes + k) * 2);
      }
  }
}

template <class T>
void spectral_mixing(const MixingArguments& args, bool backward) {
  const T* weight = static_cast<const T*>(args.weight);
  const int64_t entry = 2 * args.modes, row = args.out * entry;
  const auto make = [&] {
    const auto [b, in, out, modes] = std::tuple(args.batch, args.in, args.out, args.modes);
    return backward ? Mixing<T>(b, out, in, modes, weight, entry, row, true)
                    : Mixing<T>(b, in, out, modes, weight, row, entry, false);
  };
  const void* in = backward ? args.dy : args.x;
  void* out = backward ? args.dx : args.y;
  for_each_stretch(backward ? args.in : args.out, args.threads, make,
                   [&](Mixing<T>& mix, int64_t from, int64_t to) {
                     mix(static_cast<const T*>(in), from, to, static_cast<T*>(out));
                     if (backward) weight_gradient<T>(args, from, to);
                   });
}

}  // namespace

// y from x, or dx and dweight from dy.
extern "C" void PER_ISA(spectral_mixing)(const MixingArguments* args, int backward) {
  args->single ? spectral_mixing<float>(*args, backward) : spectral_mixing<double>(*args, backward);
}
