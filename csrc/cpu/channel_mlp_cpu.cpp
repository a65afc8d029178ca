// Two pointwise layers in one pass over the pixels.

#include "pointwise_mlp.h"

// x is (batch, in, pixels), r and y (batch, out, pixels), all contiguous and of floats where single
// is set, whose products round their factors to bfloat16 where rounded is. r may be null. d* are
// gradients, null where the argument is.
struct ChannelMlpArguments {
  int64_t batch, pixels;
  int single, rounded, gelu;
  MlpArguments mlp;
  const void *x, *r;
  int threads;
  void* y;
  const void* dy;
  void *dx, *dr;
};

namespace {

template <class T>
class ChannelMlp {
 public:
  ChannelMlp(const ChannelMlpArguments& args, bool backward)
      : args_(args), in_(args.mlp.in), out_(args.mlp.out), tiling_(1, args.pixels),
        mlp_(args.mlp, args.gelu, tiling_.width(), Products(args.rounded), backward),
        x_(tiling_.per_slab() * in_ * tiling_.width()),
        y_(tiling_.per_slab() * out_ * tiling_.width()), r_(args.r ? y_.size() : 0) {}

  static int64_t slabs(const ChannelMlpArguments& args) {
    return args.batch * Tiling<T>(1, args.pixels).slabs();
  }
  void operator()(int64_t index, bool backward) {
    const int64_t sample = index / tiling_.slabs(), slab = index % tiling_.slabs();
    const auto load = [&](int64_t channels, const void* from, Array<T>& to) {
      if (from)
        tiling_.load(slab, channels, static_cast<const T*>(from) + sample * channels * args_.pixels,
                     args_.pixels, to.data());
    };
    const auto store = [&](int64_t channels, const Array<T>& from, void* to) {
      if (to)
        tiling_.store(slab, channels, from.data(), args_.pixels,
                      static_cast<T*>(to) + sample * channels * args_.pixels);
    };
    load(in_, args_.x, x_);
    load(out_, args_.r, r_);
    if (backward) load(out_, args_.dy, y_);
    const int64_t tiles = tiling_.end(slab) - slab * tiling_.per_slab();
    for (int64_t tile = 0; tile < tiles; ++tile) {
      T *x = &x_[tile * in_ * tiling_.width()], *y = &y_[tile * out_ * tiling_.width()];
      T* r = args_.r ? &r_[tile * out_ * tiling_.width()] : nullptr;
      backward ? mlp_.backward(x, r, y) : mlp_.forward(x, r, y);
    }
    if (!backward) return store(out_, y_, args_.y);
    store(in_, x_, args_.dx);
    store(out_, r_, args_.dr);
  }
  void add_gradients() const { mlp_.add_gradients(); }

 private:
  const ChannelMlpArguments& args_;
  const int64_t in_, out_;
  const Tiling<T> tiling_;
  PointwiseMlp<T> mlp_;
  Array<T> x_, y_, r_;  // of a slab
};

template <class T>
void channel_mlp(const ChannelMlpArguments& args, bool backward) {
  for_each_stretch(
      ChannelMlp<T>::slabs(args), args.threads, [&] { return ChannelMlp<T>(args, backward); },
      [&](ChannelMlp<T>& own, int64_t from, int64_t to) {
        for (int64_t slab = from; slab < to; ++slab) own(slab, backward);
      },
      [&](const ChannelMlp<T>& own) {
        if (backward) own.add_gradients();
      });
}

}  // namespace

// y from x, or the gradients from dy.
extern "C" void PER_ISA(channel_mlp)(const ChannelMlpArguments* args, int backward) {
  args->single ? channel_mlp<float>(*args, backward) : channel_mlp<double>(*args, backward);
}
