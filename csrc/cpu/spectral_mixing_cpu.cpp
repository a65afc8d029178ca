// Products of channels, one complex matrix for each mode, with a bias and the GELU of either part.

#include "pixels.h"

// Coefficients are (batch, channels, 2, modes), weights (in, out, modes, 2) and biases (out, modes,
// 2), of floats where single is set. bias and dbias may be null.
struct MixingArguments {
  int64_t batch, in, out, modes;
  int single, gelu;
  const void *x, *weight, *bias;
  int threads;
  void* y;
  const void* dy;
  void *dx, *dweight, *dbias;
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

// out(b, p) = sum_q w(q, p) in(b, q), or with the conjugate of w, and what `Finish` makes of it;
// w(q, p) stands at weight + (q * stride_q + p * stride_p).
template <class T>
class Mixing {
 public:
  // What becomes of a sum z: z + bias, if there is one, and its GELU or dy times the slope of that.
  struct Finish {
    const T* bias;
    bool gelu;
    const T* dy;
  };

  Mixing(int64_t batch, int64_t q, int64_t p, int64_t modes, const T* weight, int64_t stride_q,
         int64_t stride_p, bool conjugate, Finish finish)
      : batch_(batch), q_(q), p_(p), modes_(modes), weight_(weight), stride_q_(stride_q),
        stride_p_(stride_p), conjugate_(conjugate), finish_(finish),
        w_(q * kOutputs * 2 * W<T>, T(0)), bias_(kOutputs * 2 * W<T>, T(0)) {}

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
    for (int o = 0; finish_.bias && o < outputs; ++o) {
      T* to = &bias_[o * 2 * W<T>];
      load_pairs(finish_.bias + ((p + o) * modes_ + k) * 2, modes_ - k, to, to + W<T>);
    }
  }
  template <int B>
  void tile(int64_t b, int64_t p, int outputs, int64_t k, T* out) const {
    Complex<T> sum[B][kOutputs];
    for (int s = 0; s < B; ++s)
      for (int o = 0; o < kOutputs; ++o) sum[s][o] = load_complex(&bias_[o * 2 * W<T>]);
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
        const int64_t at = ((b + s) * p_ + p + o) * 2 * modes_ + k;
        finish(sum[s][o].re, bytes, at, out);
        finish(sum[s][o].im, bytes, at + modes_, out);
      }
  }
  void finish(Vec<T> z, int64_t bytes, int64_t at, T* out) const {
    if (finish_.gelu) {
      const auto g = gelu(z);
      z = g.value;
      if (finish_.dy) {
        Vec<T> dy{};
        std::memcpy(&dy, finish_.dy + at, bytes);
        z = dy * g.slope;
      }
    }
    std::memcpy(out + at, &z, bytes);
  }
  static void add(Complex<T>& sum, const Complex<T>& x, const Complex<T>& w) {
    sum.re += x.re * w.re - x.im * w.im;
    sum.im += x.re * w.im + x.im * w.re;
  }

  int64_t batch_, q_, p_, modes_;
  const T* weight_;
  int64_t stride_q_, stride_p_;
  bool conjugate_;
  Finish finish_;
  Array<T> w_, bias_, in_;
};

// dw(q, p) = sum_b conj(x(b, q)) dz(b, p) for the rows q in [from, to).
template <class T>
void weight_gradient(const MixingArguments& args, const T* grad, int64_t from, int64_t to) {
  Array<T> x, dz;
  for (int64_t k = 0; k < args.modes; k += W<T>) {
    pack(args.batch * args.in, args.modes, k, static_cast<const T*>(args.x), x);
    pack(args.batch * args.out, args.modes, k, grad, dz);
    for (int64_t q = from; q < to; ++q)
      for (int64_t p = 0; p < args.out; p += kSamples) {
        const int64_t outputs = std::min<int64_t>(kSamples, args.out - p);
        Complex<T> sum[kSamples] = {};
        for (int64_t b = 0; b < args.batch; ++b) {
          const auto u = load_complex(&x[(b * args.in + q) * 2 * W<T>]);
          for (int64_t o = 0; o < outputs; ++o) {
            const auto v = load_complex(&dz[(b * args.out + p + o) * 2 * W<T>]);
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

// dbias(p) = sum_b dz(b, p) for the outputs p in [from, to).
template <class T>
void bias_gradient(const MixingArguments& args, const T* dz, int64_t from, int64_t to) {
  T* dbias = static_cast<T*>(args.dbias);
  std::fill(dbias + from * args.modes * 2, dbias + to * args.modes * 2, T(0));
  for (int64_t b = 0; b < args.batch; ++b)
    for (int64_t p = from; p < to; ++p) {
      const T* row = dz + (b * args.out + p) * 2 * args.modes;
      for (int64_t k = 0; k < args.modes; ++k)
        for (int part = 0; part < 2; ++part)
          dbias[(p * args.modes + k) * 2 + part] += row[part * args.modes + k];
    }
}

// y, or dz where there is a dy.
template <class T>
void forward(const MixingArguments& args, T* y, const T* dy) {
  const int64_t entry = 2 * args.modes;
  const auto make = [&] {
    return Mixing<T>(args.batch, args.in, args.out, args.modes,
                     static_cast<const T*>(args.weight), args.out * entry, entry, false,
                     {static_cast<const T*>(args.bias), bool(args.gelu), dy});
  };
  for_each_stretch(args.out, args.threads, make, [&](Mixing<T>& mix, int64_t from, int64_t to) {
    mix(static_cast<const T*>(args.x), from, to, y);
  });
}

template <class T>
void backward(const MixingArguments& args) {
  const int64_t entry = 2 * args.modes;
  const T* dz = static_cast<const T*>(args.dy);
  Array<T> buffer;
  if (args.gelu) {
    buffer.resize(args.batch * args.out * entry);
    forward(args, buffer.data(), dz);
    dz = buffer.data();
  }
  const auto make = [&] {
    return Mixing<T>(args.batch, args.out, args.in, args.modes,
                     static_cast<const T*>(args.weight), entry, args.out * entry, true, {});
  };
  for_each_stretch(args.in, args.threads, make, [&](Mixing<T>& mix, int64_t from, int64_t to) {
    mix(dz, from, to, static_cast<T*>(args.dx));
    weight_gradient(args, dz, from, to);
  });
  if (!args.dbias) return;
  for_each_stretch(
      args.out, args.threads, [] { return 0; },
      [&](int, int64_t from, int64_t to) { bias_gradient(args, dz, from, to); });
}

template <class T>
void spectral_mixing(const MixingArguments& args, bool gradients) {
  gradients ? backward<T>(args) : forward<T>(args, static_cast<T*>(args.y), nullptr);
}

}  // namespace

// y from x, or the gradients from dy.
extern "C" void PER_ISA(spectral_mixing)(const MixingArguments* args, int backward) {
  args->single ? spectral_mixing<float>(*args, backward) : spectral_mixing<double>(*args, backward);
}
