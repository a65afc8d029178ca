// What the mixing of channels is asked for, and how its modes are cut into vectors.
#pragma once

#include "pixels.h"

// Coefficients are (batch, channels, 2, modes), weights (in, out, modes, 2) and biases (out, modes,
// 2), of floats where single is set, whose products round their factors to bfloat16 where rounded
// is. bias may be null; dweight and dbias too, if they are not asked for. kept, like y, is the
// slope of the GELU, which the forward pass leaves for the backward pass; null where it is to be
// computed again.
struct MixingArguments {
  int64_t batch, in, out, modes;
  int single, rounded, gelu;
  const void *x, *weight, *bias;
  int threads;
  void *y, *kept;
  const void* dy;
  void *dx, *dweight, *dbias;
};

namespace {

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

// What becomes of a sum z: z + bias, if there is one, and its GELU or dy times the slope of that.
// That slope goes to `kept`, if there is one.
template <class T>
struct Finish {
  const T* bias;
  bool gelu;
  const T* dy;
  T* kept;

  // The first `count` lanes of z, to which the bias is added already.
  void operator()(Vec<T> z, int64_t count, int64_t at, T* out) const {
    if (gelu) {
      const auto g = ::gelu(z);
      z = g.value;
      if (kept) store_some(kept + at, g.slope, count);
      if (dy) z = g.slope * load_some(dy + at, count);
    }
    store_some(out + at, z, count);
  }
};

}  // namespace
