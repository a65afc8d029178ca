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
constexpr int64_t kChunk = 16;             // samples for which weights are read once

template <class T>
struct Complex {
  Vec<T> re, im;
};
template <class T>
Complex<T> load_complex(const T* x) {
  return {load(x), load(x + W<T>)};
}

// Vectors that cover the modes, and where one begins: the last one overlaps the one before, so that
// all are full if there is a vector's worth of modes.
template <class T>
int64_t blocks(int64_t modes) {
  return (modes + W<T> - 1) / W<T>;
}
template <class T>
int64_t begin(int64_t block, int64_t modes) {
  return std::max<int64_t>(0, std::min(block * W<T>, modes - W<T>));
}

// Coefficients (rows, 2, modes) as (blocks, rows, 2, W).
template <class T>
void pack(int64_t rows, int64_t modes, const T* x, Array<T>& out) {
  out.resize(blocks<T>(modes) * rows * 2 * W<T>);
  if (modes < W<T>) std::fill(out.begin(), out.end(), T(0));
  for (int64_t r = 0; r < 2 * rows; ++r)
    for (int64_t j = 0; j < blocks<T>(modes); ++j) {
      T* to = &out[(j * 2 * rows + r) * W<T>];
      const T* from = x + r * modes + begin<T>(j, modes);
      if (modes < W<T>)
        std::copy_n(from, modes, to);
      else
        store(to, load(from));
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
        stride_p_(stride_p), conjugate_(conjugate), finish_(finish), blocks_(blocks<T>(modes)),
        pair_(q * kOutputs * 2 * W<T>) {
    const int64_t fitting = (1 << 18) / (blocks_ * pair_ * int64_t(sizeof(T)));
    pairs_ = std::clamp<int64_t>(fitting, 1, (p + kOutputs - 1) / kOutputs);
    w_.assign(blocks_ * pairs_ * pair_, T(0));
    bias_.assign(blocks_ * pairs_ * kOutputs * 2 * W<T>, T(0));
  }

  // Outputs [from, to). Weights are read row by row, as they stand in memory: a few outputs' worth
  // fits in cache.
  void operator()(const T* in, int64_t from, int64_t to, T* out) {
    for (int64_t b0 = 0; b0 < batch_; b0 += kChunk) {
      samples_ = std::min(kChunk, batch_ - b0);
      pack(samples_ * q_, modes_, in + b0 * q_ * 2 * modes_, in_);
      for (int64_t p0 = from; p0 < to; p0 += pairs_ * kOutputs) {
        const int64_t outputs = std::min(pairs_ * kOutputs, to - p0);
        gather(p0, outputs);
        for (int64_t j = 0; j < blocks_; ++j)
          for (int64_t o = 0; o < outputs; o += kOutputs) {
            const int some = int(std::min<int64_t>(kOutputs, outputs - o));
            int64_t b = 0;
            for (; b + kSamples <= samples_; b += kSamples)
              tile<kSamples>(b0, b, p0, o, some, j, out);
            for (; b < samples_; ++b) tile<1>(b0, b, p0, o, some, j, out);
          }
      }
    }
  }

 private:
  // Of block j and output o of those in w_, and of both outputs of its pair q after q.
  int64_t place(int64_t j, int64_t o) const {
    return (j * pairs_ + o / kOutputs) * pair_ + o % kOutputs * 2 * W<T>;
  }
  void gather(int64_t p0, int64_t outputs) {
    if (stride_q_ > stride_p_) {
      for (int64_t q = 0; q < q_; ++q)
        for (int64_t o = 0; o < outputs; ++o) gather_entry(p0, o, q);
    } else {
      for (int64_t o = 0; o < outputs; ++o)
        for (int64_t q = 0; q < q_; ++q) gather_entry(p0, o, q);
    }
    for (int64_t o = 0; finish_.bias && o < outputs; ++o)
      for (int64_t j = 0; j < blocks_; ++j) {
        T* to = &bias_[(j * pairs_ * kOutputs + o) * 2 * W<T>];
        const int64_t k = begin<T>(j, modes_);
        load_pairs(finish_.bias + ((p0 + o) * modes_ + k) * 2, modes_ - k, to, to + W<T>);
      }
  }
  void gather_entry(int64_t p0, int64_t o, int64_t q) {
    const T* from = weight_ + q * stride_q_ + (p0 + o) * stride_p_;
    for (int64_t j = 0; j < blocks_; ++j) {
      T* to = &w_[place(j, o) + q * kOutputs * 2 * W<T>];
      const int64_t k = begin<T>(j, modes_);
      load_pairs(from + 2 * k, modes_ - k, to, to + W<T>);
      if (conjugate_) store(to + W<T>, -load(to + W<T>));
    }
  }
  // Samples b0 + b + [0, B), outputs p0 + o + [0, some) and block j of the modes.
  template <int B>
  void tile(int64_t b0, int64_t b, int64_t p0, int64_t o, int some, int64_t j, T* out) const {
    Complex<T> sum[B][kOutputs];
    const T* bias = &bias_[(j * pairs_ * kOutputs + o) * 2 * W<T>];
    for (int s = 0; s < B; ++s)
      for (int i = 0; i < kOutputs; ++i) sum[s][i] = load_complex(bias + i * 2 * W<T>);
    const T *w = &w_[place(j, o)], *in = &in_[(j * samples_ + b) * q_ * 2 * W<T>];
    for (int64_t q = 0; q < q_; ++q, w += kOutputs * 2 * W<T>) {
      const auto w0 = load_complex(w), w1 = load_complex(w + 2 * W<T>);
      for (int s = 0; s < B; ++s) {
        const auto x = load_complex(in + (s * q_ + q) * 2 * W<T>);
        add(sum[s][0], x, w0);
        add(sum[s][1], x, w1);
      }
    }
    const int64_t k = begin<T>(j, modes_);
    const int64_t bytes = std::min<int64_t>(W<T>, modes_ - k) * sizeof(T);
    for (int s = 0; s < B; ++s)
      for (int i = 0; i < some; ++i) {
        const int64_t at = ((b0 + b + s) * p_ + p0 + o + i) * 2 * modes_ + k;
        finish(sum[s][i].re, bytes, at, out);
        finish(sum[s][i].im, bytes, at + modes_, out);
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
  int64_t blocks_, pair_, pairs_;  // pair_: of an array of the weights of two outputs
  int64_t samples_ = 0;            // of a chunk
  Array<T> w_, bias_, in_;
};

// dw(q, p) = sum_b conj(x(b, q)) dz(b, p) for the rows q in [from, to).
template <class T>
class WeightGradient {
 public:
  WeightGradient(const MixingArguments& args, const T* dz) : args_(args) {
    pack(args.batch * args.in, args.modes, static_cast<const T*>(args.x), x_);
    pack(args.batch * args.out, args.modes, dz, dz_);
  }
  void operator()(int64_t from, int64_t to) const {
    for (int64_t j = 0; j < blocks<T>(args_.modes); ++j) {
      int64_t q = from;
      for (; q + 2 <= to; q += 2) rows<2>(j, q);
      for (; q < to; ++q) rows<1>(j, q);
    }
  }

 private:
  template <int R>
  void rows(int64_t j, int64_t q) const {
    const T* x = &x_[(j * args_.batch * args_.in + q) * 2 * W<T>];
    const T* dz = &dz_[j * args_.batch * args_.out * 2 * W<T>];
    int64_t p = 0;
    for (; p + kSamples <= args_.out; p += kSamples) tile<R, kSamples>(x, dz, q, p, j);
    for (; p < args_.out; ++p) tile<R, 1>(x, dz, q, p, j);
  }
  template <int R, int P>
  void tile(const T* x, const T* dz, int64_t q, int64_t p, int64_t j) const {
    Complex<T> sum[R][P] = {};
    for (int64_t b = 0; b < args_.batch; ++b)
      for (int o = 0; o < P; ++o) {
        const auto v = load_complex(dz + (b * args_.out + p + o) * 2 * W<T>);
        for (int r = 0; r < R; ++r) {
          const auto u = load_complex(x + (b * args_.in + r) * 2 * W<T>);
          sum[r][o].re += u.re * v.re + u.im * v.im;
          sum[r][o].im += u.re * v.im - u.im * v.re;
        }
      }
    const int64_t k = begin<T>(j, args_.modes);
    for (int r = 0; r < R; ++r)
      for (int o = 0; o < P; ++o)
        store_pairs<T>(sum[r][o].re, sum[r][o].im, args_.modes - k,
                       static_cast<T*>(args_.dweight) +
                           (((q + r) * args_.out + p + o) * args_.modes + k) * 2);
  }

  const MixingArguments& args_;
  Array<T> x_, dz_;
};

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
  const WeightGradient<T> weight_gradient(args, dz);
  for_each_stretch(args.in, args.threads, make, [&](Mixing<T>& mix, int64_t from, int64_t to) {
    mix(dz, from, to, static_cast<T*>(args.dx));
    weight_gradient(from, to);
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
