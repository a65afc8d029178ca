// Products of channels, one complex matrix for each mode, with a bias and the GELU of either part.

#include "mixing.h"
#include "tiled_mixing.h"

namespace {

constexpr int kSamples = 2, kOutputs = 4;  // of a tile of sums
constexpr int64_t kAhead = 4;              // rows that are fetched before their turn

// Bytes of inputs that many outputs share, of each thread: in the cache of all of them, or, where
// these are many, in its own.
inline int64_t in_cache(int threads) {
  return std::max<int64_t>(1 << 20, (1 << 23) / std::max(threads, 1));
}

template <class T>
struct Complex {
  Vec<T> re, im;
};
template <class T>
Complex<T> load_complex(const T* x) {
  return {load(x), load(x + W<T>)};
}

// A vector of complex factors: real parts, then imaginary ones.
template <class T>
struct Exact {
  using Number = T;
  static constexpr int64_t kSize = 2 * W<T>;  // numbers

  // The first `count` lanes from real and imaginary parts, or from pairs in memory.
  static void from_parts(const T* re, const T* im, int64_t count, T* out) {
    store(out, load_some(re, count));
    store(out + W<T>, load_some(im, count));
  }
  static void from_pairs(const T* pairs, int64_t count, bool conjugate, T* out) {
    load_pairs(pairs, count, out, out + W<T>);
    if (conjugate) store(out + W<T>, -load(out + W<T>));
  }
  static Complex<T> factor(const T* x) { return load_complex(x); }
  // One product at a time: each is then one instruction with its sum.
  static void add(Complex<T>& sum, const Complex<T>& x, const Complex<T>& y) {
    sum.re += x.re * y.re;
    sum.re -= x.im * y.im;
    sum.im += x.re * y.im;
    sum.im += x.im * y.re;
  }
  static void add_conjugate(Complex<T>& sum, const Complex<T>& x, const Complex<T>& y) {
    sum.re += x.re * y.re;
    sum.re += x.im * y.im;
    sum.im += x.re * y.im;
    sum.im -= x.im * y.re;
  }
};

#if VECTOR_BYTES == 64
// The same rounded to bfloat16, both parts of a factor side by side.
struct Rounded {
  using Number = uint32_t;
  static constexpr int64_t kSize = W<float>;

  static void from_parts(const float* re, const float* im, int64_t count, uint32_t* out) {
    store(out, rounded_lanes(load_some(re, count), load_some(im, count)));
  }
  static void from_pairs(const float* pairs, int64_t count, bool conjugate, uint32_t* out) {
    const Pairs x = rounded_pairs(pairs, count);
    store(out, conjugate ? x ^ kSecondSign : x);
  }
  static Pairs factor(const uint32_t* x) { return load(x); }
  static void add(Complex<float>& sum, Pairs x, Pairs y) {
    sum.re = add_pair_products(sum.re, x, y ^ kSecondSign);
    sum.im = add_pair_products(sum.im, x, swapped(y));
  }
  static void add_conjugate(Complex<float>& sum, Pairs x, Pairs y) {
    sum.re = add_pair_products(sum.re, x, y);
    sum.im = add_pair_products(sum.im, x, swapped(y) ^ kSecondSign);
  }
};
#endif

// Blocks [from, to) of coefficients (batch, channels, 2, modes) as factors (blocks, batch,
// channels), or with the channels before the batch.
template <class F, class T>
void pack(int64_t batch, int64_t channels, int64_t modes, const T* x, int64_t from, int64_t to,
          bool by_channel, Array<typename F::Number>& out) {
  const int64_t rows = batch * channels, count = std::min<int64_t>(modes, W<T>);
  out.resize((to - from) * rows * F::kSize);
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t c = 0; c < channels; ++c, x += 2 * modes) {
      auto* row = &out[(by_channel ? c * batch + b : b * channels + c) * F::kSize];
      for (int part = 0; part < 2; ++part)
        __builtin_prefetch(x + (2 * kAhead + part) * modes + begin<T>(from, modes));
      for (int64_t j = from; j < to; ++j, row += rows * F::kSize) {
        const T* re = x + begin<T>(j, modes);
        F::from_parts(re, re + modes, count, row);
      }
    }
}

// out(b, p) = sum_q w(q, p) in(b, q), or with the conjugate of w, and what `Finish` makes of it;
// w(q, p) stands at weight + (q * stride_q + p * stride_p).
template <class T, class F>
class Mixing {
 public:
  Mixing(int64_t batch, int64_t q, int64_t p, int64_t modes, const T* weight, int64_t stride_q,
         int64_t stride_p, bool conjugate, int threads, Finish<T> finish)
      : batch_(batch), q_(q), p_(p), modes_(modes), weight_(weight), stride_q_(stride_q),
        stride_p_(stride_p), conjugate_(conjugate), finish_(finish), blocks_(blocks<T>(modes)),
        pair_(q * kOutputs * F::kSize) {
    const int64_t sample = q * F::kSize * kBytes;  // of one block
    const int64_t room = in_cache(threads);
    chunk_ = std::clamp<int64_t>(room / sample, kSamples, std::max<int64_t>(batch, kSamples));
    span_ = std::clamp<int64_t>(room / (chunk_ * sample), 1, std::max<int64_t>(blocks_, 1));
    const int64_t fitting = (1 << 18) / (span_ * pair_ * kBytes);
    pairs_ = std::clamp<int64_t>(fitting, 1, (p + kOutputs - 1) / kOutputs);
    w_.assign(span_ * pairs_ * pair_, Number(0));
    bias_.assign(span_ * pairs_ * kOutputs * 2 * W<T>, T(0));
  }

  // Outputs [from, to). Some blocks of the inputs stay in cache for all of them; weights are read
  // row by row, as they stand in memory, of a few outputs at a time.
  void operator()(const T* in, int64_t from, int64_t to, T* out) {
    for (int64_t b0 = 0; b0 < batch_; b0 += chunk_) {
      samples_ = std::min(chunk_, batch_ - b0);
      for (first_ = 0; first_ < blocks_; first_ += span_) {
        pack<F>(samples_, q_, modes_, in + b0 * q_ * 2 * modes_, first_, end(), false, in_);
        for (int64_t p0 = from; p0 < to; p0 += pairs_ * kOutputs) {
          const int64_t outputs = std::min(pairs_ * kOutputs, to - p0);
          gather(p0, outputs);
          for (int64_t j = first_; j < end(); ++j)
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
  }

 private:
  using Number = typename F::Number;
  static constexpr int64_t kBytes = sizeof(Number);

  // Of the blocks in w_, which begin at first_.
  int64_t end() const { return std::min(first_ + span_, blocks_); }
  // Of block j and output o of those in w_, and of both outputs of its pair q after q.
  int64_t place(int64_t j, int64_t o) const {
    return ((j - first_) * pairs_ + o / kOutputs) * pair_ + o % kOutputs * F::kSize;
  }
  T* bias(int64_t j, int64_t o) {
    return &bias_[((j - first_) * pairs_ * kOutputs + o) * 2 * W<T>];
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
      for (int64_t j = first_; j < end(); ++j) {
        T* to = bias(j, o);
        const int64_t k = begin<T>(j, modes_);
        load_pairs(finish_.bias + ((p0 + o) * modes_ + k) * 2, modes_ - k, to, to + W<T>);
      }
  }
  void gather_entry(int64_t p0, int64_t o, int64_t q) {
    const T* from = weight_ + q * stride_q_ + (p0 + o) * stride_p_;
    // What one span needs of a row is too short for the processor to see it coming.
    const T* later = from + kAhead * std::max(stride_q_, stride_p_);
    const int64_t last = 2 * std::min(modes_, end() * W<T>);
    for (int64_t k = 2 * begin<T>(first_, modes_); k < last; k += 64 / int64_t(sizeof(T)))
      __builtin_prefetch(later + k);
    for (int64_t j = first_; j < end(); ++j) {
      const int64_t k = begin<T>(j, modes_);
      F::from_pairs(from + 2 * k, modes_ - k, conjugate_,
                    &w_[place(j, o) + q * kOutputs * F::kSize]);
    }
  }
  // Samples b0 + b + [0, B), outputs p0 + o + [0, some) and block j of the modes.
  template <int B>
  void tile(int64_t b0, int64_t b, int64_t p0, int64_t o, int some, int64_t j, T* out) {
    Complex<T> sum[B][kOutputs];
    for (int s = 0; s < B; ++s)
      for (int i = 0; i < kOutputs; ++i) sum[s][i] = load_complex(bias(j, o + i));
    const Number *w = &w_[place(j, o)], *in = &in_[((j - first_) * samples_ + b) * q_ * F::kSize];
    for (int64_t q = 0; q < q_; ++q, w += kOutputs * F::kSize) {
      decltype(F::factor(w)) factors[kOutputs];
      for (int i = 0; i < kOutputs; ++i) factors[i] = F::factor(w + i * F::kSize);
      for (int s = 0; s < B; ++s) {
        const auto x = F::factor(in + (s * q_ + q) * F::kSize);
        for (int i = 0; i < kOutputs; ++i) F::add(sum[s][i], x, factors[i]);
      }
    }
    const int64_t k = begin<T>(j, modes_);
    const int64_t count = std::min<int64_t>(W<T>, modes_ - k);
    for (int s = 0; s < B; ++s)
      for (int i = 0; i < some; ++i) {
        const int64_t at = ((b0 + b + s) * p_ + p0 + o + i) * 2 * modes_ + k;
        finish_(sum[s][i].re, count, at, out);
        finish_(sum[s][i].im, count, at + modes_, out);
      }
  }
  int64_t batch_, q_, p_, modes_;
  const T* weight_;
  int64_t stride_q_, stride_p_;
  bool conjugate_;
  Finish<T> finish_;
  int64_t blocks_, pair_, pairs_;    // pair_: of an array of the weights of two outputs
  int64_t chunk_, span_;             // samples and blocks that are in cache together
  int64_t samples_ = 0, first_ = 0;  // of the chunk and of the span
  Array<Number> w_, in_;
  Array<T> bias_;
};

// dw(q, p) = sum_b conj(x(b, q)) dz(b, p) for the rows q in [from, to).
template <class T, class F>
class WeightGradient {
 public:
  WeightGradient(const MixingArguments& args, const T* dz) : args_(args), all_dz_(dz) {}
  // The side of fewer channels is the one that goes by again and again: it stays in cache.
  void operator()(int64_t from, int64_t to) {
    const bool rows_first = args_.in >= args_.out;
    const int64_t outer = rows_first ? kRows : kColumns, inner = rows_first ? kColumns : kRows;
    const int64_t outer_from = rows_first ? from : 0, outer_to = rows_first ? to : args_.out;
    const int64_t inner_from = rows_first ? 0 : from, inner_to = rows_first ? args_.out : to;
    for (int64_t j = 0; j < blocks<T>(args_.modes); ++j) {
      pack<F>(args_.batch, args_.in, args_.modes, static_cast<const T*>(args_.x), j, j + 1, true,
              x_);
      pack<F>(args_.batch, args_.out, args_.modes, all_dz_, j, j + 1, true, dz_);
      for (int64_t u = outer_from; u < outer_to; u += outer)
        for (int64_t v = inner_from; v < inner_to; v += inner) {
          const int64_t q = rows_first ? u : v, p = rows_first ? v : u;
          const int64_t rows = std::min<int64_t>(kRows, to - q);
          some(j, q, rows, p, std::min<int64_t>(kColumns, args_.out - p));
        }
    }
  }

 private:
  static constexpr int kRows = 2, kColumns = 4;  // of a tile of sums

  void some(int64_t j, int64_t q, int64_t rows, int64_t p, int64_t columns) const {
    if (rows == kRows && columns == kColumns) return tile<kRows, kColumns>(j, q, p);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) tile<1, 1>(j, q + r, p + c);
  }
  template <int R, int P>
  void tile(int64_t j, int64_t q, int64_t p) const {
    const int64_t channel = args_.batch * F::kSize;
    const auto *x = &x_[q * channel], *dz = &dz_[p * channel];
    Complex<T> sum[R][P] = {};
    for (int64_t at = 0; at < channel; at += F::kSize)
      for (int o = 0; o < P; ++o) {
        const auto v = F::factor(dz + o * channel + at);
        for (int r = 0; r < R; ++r)
          F::add_conjugate(sum[r][o], F::factor(x + r * channel + at), v);
      }
    const int64_t k = begin<T>(j, args_.modes);
    for (int r = 0; r < R; ++r)
      for (int o = 0; o < P; ++o)
        store_pairs<T>(sum[r][o].re, sum[r][o].im, args_.modes - k,
                       static_cast<T*>(args_.dweight) +
                           (((q + r) * args_.out + p + o) * args_.modes + k) * 2);
  }

  const MixingArguments& args_;
  const T* all_dz_;
  Array<typename F::Number> x_, dz_;  // of a block
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
template <class T, class F>
void forward(const MixingArguments& args, T* y, const T* dy, T* kept) {
  const int64_t entry = 2 * args.modes;
  const auto make = [&] {
    return Mixing<T, F>(args.batch, args.in, args.out, args.modes,
                        static_cast<const T*>(args.weight), args.out * entry, entry, false,
                        args.threads,
                        {static_cast<const T*>(args.bias), bool(args.gelu), dy, kept});
  };
  for_each_stretch(args.out, args.threads, make, [&](Mixing<T, F>& mix, int64_t from, int64_t to) {
    mix(static_cast<const T*>(args.x), from, to, y);
  });
}

// dz from dy and the slope of the GELU.
template <class T>
void through_gelu(const MixingArguments& args, T* dz) {
  const T *slope = static_cast<const T*>(args.kept), *dy = static_cast<const T*>(args.dy);
  const int64_t size = args.batch * args.out * 2 * args.modes;
  for_each_stretch(
      blocks<T>(size), args.threads, [] { return 0; },
      [&](int, int64_t from, int64_t to) {
        for (int64_t i = from * W<T>; i < std::min(to * W<T>, size); i += W<T>) {
          const int64_t count = std::min<int64_t>(W<T>, size - i);
          store_some(dz + i, load_some(slope + i, count) * load_some(dy + i, count), count);
        }
      });
}

template <class T, class F>
void backward(const MixingArguments& args) {
  const int64_t entry = 2 * args.modes;
  const T* dz = static_cast<const T*>(args.dy);
  Array<T> buffer;
  if (args.gelu) {
    buffer.resize(args.batch * args.out * entry);
    if (args.kept)
      through_gelu(args, buffer.data());
    else
      forward<T, F>(args, buffer.data(), dz, nullptr);
    dz = buffer.data();
  }
  const auto make = [&] {
    return Mixing<T, F>(args.batch, args.out, args.in, args.modes,
                        static_cast<const T*>(args.weight), entry, args.out * entry, true,
                        args.threads, {});
  };
  for_each_stretch(args.in, args.threads, make, [&](Mixing<T, F>& mix, int64_t from, int64_t to) {
    mix(dz, from, to, static_cast<T*>(args.dx));
    if (args.dweight) WeightGradient<T, F>(args, dz)(from, to);
  });
  if (!args.dbias) return;
  for_each_stretch(
      args.out, args.threads, [] { return 0; },
      [&](int, int64_t from, int64_t to) { bias_gradient(args, dz, from, to); });
}

template <class T, class F = Exact<T>>
void spectral_mixing(const MixingArguments& args, bool gradients) {
  if (gradients) return backward<T, F>(args);
  forward<T, F>(args, static_cast<T*>(args.y), nullptr, static_cast<T*>(args.kept));
}

}  // namespace

// y from x, or the gradients from dy.
extern "C" void PER_ISA(spectral_mixing)(const MixingArguments* args, int backward) {
#if VECTOR_BYTES == 64
  if (args->single && args->rounded == kTiles && args->batch >= kWorthTiles)
    return spectral_mixing<float, Tiled>(*args, backward);
  if (args->single && args->rounded == kVectors)
    return spectral_mixing<float, Rounded>(*args, backward);
#endif
  args->single ? spectral_mixing<float>(*args, backward) : spectral_mixing<double>(*args, backward);
}
