// From modes to images, and the pointwise rest of a Fourier block in the same pass:
// h = act(Re(first c last^T) + skip x + bias) and y = act(w2 gelu(w1 h + b1) + b2 + gate * x), or
// without w1 y = act(Re(first c last^T) + skip x + bias + gate * x).

#include "pointwise_mlp.h"
#include "spectral.h"

// c is (batch, out, 2, m0, m1), first (n0, m0, 2), last (n1, m1, 2), x (batch, in, n0, n1), skip
// (out, in), y (batch, channels, n0, n1), of floats where single is set, whose products round their
// factors to bfloat16 where rounded is. skip, x, bias, w1 and gate may be null. d* are gradients,
// null where the argument is or they are not asked for; those but dx are added to. For them,
// adjoint_first (m0, n0, 2) and adjoint_last (m1, n1, 2) are the conjugate transposes of first and
// last. Without first, c is (batch, out, n0, 2, m1), and so is dc. kept (batch, out, n0, n1) is what
// the forward pass leaves for the backward pass, of the first activation what it is of, or where
// nothing comes after it its slope; null where that is to be computed again.
struct SynthesisArguments {
  int64_t batch, in, out;
  TransformShape shape;
  int single, rounded, gelu;
  const void *c, *first, *last, *x, *skip, *bias;
  MlpArguments mlp;
  int threads;
  void *y, *kept;
  const void *dy, *adjoint_first, *adjoint_last;
  void *dc, *dx, *dskip, *dbias;
};

namespace {

// A few lines of one sample, of all channels.
template <class T>
class SynthesisLayer {
 public:
  SynthesisLayer(const SynthesisArguments& args, bool backward)
      : args_(args), s_(args.shape), lines_(lines(args)),
        channels_(args.mlp.w1 ? args.mlp.out : args.out),
        gate_(args.mlp.w1 ? nullptr : static_cast<const T*>(args.mlp.gate)),
        gated_(args.mlp.gate), tiling_(lines_, s_.n1), width_(tiling_.width()),
        product_(args.rounded),
        transform_(s_, static_cast<const T*>(args.first), static_cast<const T*>(args.last),
                   product_),
        skip_(args.out, args.in, static_cast<const T*>(args.skip), width_, product_, backward,
              args.dskip),
        between_(args.out * lines_ * transform_.line(), T(0)),
        x_(args.x ? tiling_.per_slab() * args.in * width_ : 0),
        y_(tiling_.per_slab() * channels_ * width_),
        kept_(args.kept ? tiling_.per_slab() * args.out * width_ : 0) {
    if (args.mlp.w1) mlp_.emplace(args.mlp, args.gelu, width_, product_, backward);
    h_.resize(mlp_ ? args.out * width_ : 0);
    if (!backward) return;
    adjoint_.emplace(s_, static_cast<const T*>(args.adjoint_first),
                     static_cast<const T*>(args.adjoint_last), product_);
    adjoint_lines_.resize(args.out * lines_ * adjoint_->line());
    z_.resize(args.out * width_);
    slope_.resize(args.out * width_);
    r_.resize(gated_ && !gate_ ? args.in * width_ : 0);
    dbias_ = ChannelSums<T>(args.out);
    dgate_ = ChannelSums<T>(gate_ ? args.in : 0);
  }

  static int64_t blocks(const SynthesisArguments& args) {
    return args.batch * ((args.shape.n0 + lines(args) - 1) / lines(args));
  }
  void operator()(int64_t block, bool backward) {
    const int64_t across = (s_.n0 + lines_ - 1) / lines_, sample = block / across;
    const int64_t first = block % across * lines_, end = std::min(first + lines_, s_.n0);
    if (!backward || (!args_.kept && (args_.gelu || mlp_))) from_modes(sample, first, end);
    const Tiling<T> tiling(end - first, s_.n1);
    for (int64_t slab = 0; slab < tiling.slabs(); ++slab) {
      const auto place = [&](int64_t channels) {
        return sample * channels * s_.points() + first * s_.n1;
      };
      const auto load = [&](int64_t channels, const void* from, Array<T>& to) {
        if (from)
          tiling.load(slab, channels, static_cast<const T*>(from) + place(channels), s_.points(),
                      to.data());
      };
      const auto store = [&](int64_t channels, const Array<T>& from, void* to) {
        if (to)
          tiling.store(slab, channels, from.data(), s_.points(),
                       static_cast<T*>(to) + place(channels));
      };
      load(args_.in, args_.x, x_);
      if (backward) {
        load(channels_, args_.dy, y_);
        load(args_.out, args_.kept, kept_);
      }
      for (int64_t tile = slab * tiling.per_slab(); tile < tiling.end(slab); ++tile) {
        const int64_t at = (tile - slab * tiling.per_slab()) * width_;
        const int64_t line = tiling.line(tile), column = tiling.column(tile);
        T *x = args_.x ? &x_[at * args_.in] : nullptr, *y = &y_[at * channels_];
        T* kept = args_.kept ? &kept_[at * args_.out] : nullptr;
        backward ? gradients(line, column, x, kept, y) : forward(line, column, x, kept, y);
      }
      if (backward) {
        store(args_.in, x_, args_.dx);
      } else {
        store(channels_, y_, args_.y);
        store(args_.out, kept_, args_.kept);
      }
    }
    if (backward && args_.dc) to_modes(sample, first, end);
  }
  void add_gradients() const {
    if (args_.dc) {
      T* dc = static_cast<T*>(args_.dc) + first_sample_ * per_sample();
      for (size_t i = 0; i < dc_.size(); ++i) dc[i] += dc_[i];
    }
    if (args_.skip) skip_.add_gradient(static_cast<T*>(args_.dskip));
    if (mlp_) mlp_->add_gradients();
    dbias_.add_to(args_.dbias);
    dgate_.add_to(args_.mlp.dgate);
  }

 private:
  // Of a block: enough blocks for all threads, and what stands between the axes in cache.
  static int64_t lines(const SynthesisArguments& args) {
    const int64_t line = args.out * padded<T>(2 * args.shape.m1) * int64_t(sizeof(T));
    const int64_t shared = args.shape.n0 * args.batch / (4 * args.threads);
    return std::clamp<int64_t>(std::min(shared, (1 << 19) / line), 1, args.shape.n0);
  }

  int64_t per_sample() const { return args_.out * 2 * s_.modes(); }
  // Line i of channel o of a sample, of an array (batch, out, n0, 2, m1).
  int64_t place_of_line(int64_t sample, int64_t o, int64_t i) const {
    return ((sample * args_.out + o) * s_.n0 + i) * 2 * s_.m1;
  }

  void from_modes(int64_t sample, int64_t first, int64_t end) {
    const T* c = static_cast<const T*>(args_.c);
    for (int64_t o = 0; o < args_.out; ++o) {
      T* lines = &between_[o * lines_ * transform_.line()];
      if (args_.first)
        transform_.first_axis(c + sample * per_sample() + o * 2 * s_.modes(), first, end, lines);
      else
        for (int64_t i = first; i < end; ++i)
          std::copy_n(c + place_of_line(sample, o, i), 2 * s_.m1,
                      lines + (i - first) * transform_.line());
    }
  }
  // The gradient of the coefficients from adjoint_lines_. Others may have lines of the same sample.
  void to_modes(int64_t sample, int64_t first, int64_t end) {
    if (!args_.first) {
      for (int64_t o = 0; o < args_.out; ++o)
        for (int64_t i = first; i < end; ++i)
          std::copy_n(&adjoint_lines_[(o * lines_ + i - first) * adjoint_->line()], 2 * s_.m1,
                      static_cast<T*>(args_.dc) + place_of_line(sample, o, i));
      return;
    }
    if (first_sample_ < 0) first_sample_ = sample;
    const int64_t at = (sample - first_sample_) * per_sample();
    dc_.resize(at + per_sample());
    for (int64_t o = 0; o < args_.out; ++o)
      adjoint_->first_axis(&adjoint_lines_[o * lines_ * adjoint_->line()], first, end,
                           &dc_[at + o * 2 * s_.modes()], true);
  }
  // What h is the activation of, on a tile, but for the bias and the gate.
  void products(int64_t line, int64_t column, const T* x, T* h) {
    transform_.last_axis(args_.out, &between_[line * transform_.line()], lines_ * transform_.line(),
                         column, width_, h);
    if (args_.skip) skip_.times(x, h, true);
  }
  // h from the products, with what is kept of the activation and its slope, unless these are null.
  void enter(const T* x, T* h, T* kept, T* slope) const {
    const bool gated = gate_;
    T* const sums = mlp_ ? kept : nullptr;
    if (kept && !mlp_) slope = kept;
    for (int64_t o = 0; o < args_.out; ++o) {
      const T bias = entry(args_.bias, o, T(0)), gate = entry(gate_, o, T(0));
      for (int64_t i = o * width_; i < (o + 1) * width_; i += W<T>) {
        Vec<T> z = load(h + i) + bias;
        if (gated) z += gate * load(x + i);
        if (sums) store(sums + i, z);
        activate(z, i, h, slope);
      }
    }
  }
  void activate(Vec<T> z, int64_t i, T* h, T* slope) const {
    if (!args_.gelu) return store(h + i, z);
    const auto g = gelu(z);
    store(h + i, g.value);
    if (slope) store(slope + i, g.slope);
  }
  void forward(int64_t line, int64_t column, const T* x, T* kept, T* y) {
    T* h = mlp_ ? h_.data() : y;
    products(line, column, x, h);
    if (args_.gelu || gate_ || args_.bias || kept) enter(x, h, kept, nullptr);
    if (mlp_) mlp_->forward(h, gated_ ? x : nullptr, y);
  }
  // y is dy, and x becomes its own gradient.
  void gradients(int64_t line, int64_t column, T* x, const T* kept, T* y) {
    T* dz = y;
    const T* slope = slope_.data();
    if (kept && !mlp_) {
      slope = kept;
    } else if (kept) {
      for (int64_t i = 0; i < args_.out * width_; i += W<T>)
        activate(load(kept + i), i, z_.data(), slope_.data());
    } else if (args_.gelu || mlp_) {
      products(line, column, x, z_.data());
      enter(x, z_.data(), nullptr, slope_.data());
    }
    if (mlp_) {
      dz = z_.data();
      if (gated_) std::copy_n(x, args_.in * width_, r_.data());
      mlp_->backward(dz, gated_ ? r_.data() : nullptr, y);
    }
    const bool gated = gate_, linear = !args_.gelu, skip = args_.skip;
    for (int64_t o = 0; o < args_.out; ++o) {
      Vec<T> total{}, with_x{};
      for (int64_t i = o * width_; i < (o + 1) * width_; i += W<T>) {
        if (!linear) store(dz + i, load(dz + i) * load(slope + i));
        total += load(dz + i);
        if (gated) with_x += load(dz + i) * load(x + i);
      }
      dbias_.add(o, total);
      if (gated) dgate_.add(o, with_x);
    }
    if (args_.dc)
      adjoint_->last_axis(args_.out, dz, width_, column, width_,
                          &adjoint_lines_[line * adjoint_->line()], lines_ * adjoint_->line());
    if (skip) {
      skip_.accumulate(dz, x);
      skip_.transposed_times(dz, x);
    }
    if (!gated_) return;
    const T* dr = gated ? dz : r_.data();
    for (int64_t c = 0; c < args_.in; ++c) {
      const T gate = entry(gate_, c, T(1));
      for (int64_t i = c * width_; i < (c + 1) * width_; i += W<T>) {
        const Vec<T> d = gate * load(dr + i);
        store(x + i, skip ? load(x + i) + d : d);
      }
    }
  }

  const SynthesisArguments& args_;
  const TransformShape& s_;
  const int64_t lines_, channels_;
  const T* const gate_;  // of x in h
  const bool gated_;     // x has a gate there or in mlp_
  const Tiling<T> tiling_;  // of a whole block
  const int64_t width_;
  const Products product_;
  Synthesis<T> transform_;
  Weight<T> skip_;
  std::optional<PointwiseMlp<T>> mlp_;
  std::optional<Analysis<T>> adjoint_;
  Array<T> between_, adjoint_lines_;  // the axes, (out, lines, line() of the transform)
  Array<T> x_, y_, kept_;             // of a slab
  Array<T> h_, z_, slope_, r_;        // of a tile
  Array<T> dc_;                       // from first_sample_ on
  int64_t first_sample_ = -1;
  ChannelSums<T> dbias_, dgate_;
};

template <class T>
void spectral_synthesis(const SynthesisArguments& args, bool backward) {
  for_each_stretch(
      SynthesisLayer<T>::blocks(args), args.threads,
      [&] { return SynthesisLayer<T>(args, backward); },
      [&](SynthesisLayer<T>& own, int64_t from, int64_t to) {
        for (int64_t block = from; block < to; ++block) own(block, backward);
      },
      [&](const SynthesisLayer<T>& own) {
        if (backward) own.add_gradients();
      });
}

}  // namespace

// y, or the gradients from dy.
extern "C" void PER_ISA(spectral_synthesis)(const SynthesisArguments* args, int backward) {
  args->single ? spectral_synthesis<float>(*args, backward)
               : spectral_synthesis<double>(*args, backward);
}
