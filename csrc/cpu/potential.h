// A potential of input-convex shape, for many points at once: one point per lane.
//
//   p_l = V_l h_(l-1) + (R_l x)^2 + W_l x + b_l,   h_l = softplus(s p_l) / s,
//   u(x) = top . h_L + |A x|^2 / 2 + strong |x|^2 / 2 + c . x
//
// u is convex where V_l and top are not negative. b_l and c are those of the point's class. Inside,
// everything is scaled so that s is 1.
#pragma once

#include <cmath>

#include "gemm.h"
#include "transpose.h"

// maps is (rows, dim): W_1, R_1, ..., W_L, R_L, A, one under the other. hidden[l] is V_(l+2), of
// widths[l+1] rows and widths[l] columns; bias (classes, sum of widths), top (widths[L-1]), linear
// (classes, dim). All are of floats where single is set.
struct PotentialArguments {
  int64_t dim, layers, rows, classes;
  const int64_t* widths;
  int single;
  double strong, sharpness;
  const void *maps, *bias, *top, *linear;
  const void* const* hidden;
};

namespace {

// log(1 + e) for e in [0, 1].
inline Vec<double> log_one_plus(Vec<double> e) { return vlog(1.0 + e); }
// A polynomial with an absolute error of 3e-8, less than the rounding near log 2.
inline Vec<float> log_one_plus(Vec<float> e) {
  static constexpr float q[] = {-6.452627945691347e-3f, 3.608470410108566e-2f,
                                -9.532302618026733e-2f, 1.676485389471054e-1f,
                                -2.407311946153641e-1f, 3.317984044551849e-1f,
                                -4.998740553855896e-1f, 9.999964237213135e-1f};
  return e * polynomial(q, e);
}

template <class T>
struct Softplus {
  Vec<T> value, slope;
};
template <class T>
inline Softplus<T> softplus(Vec<T> p) {
  const Vec<T> e = exp_in_range(vmax(-vabs(p), splat(T(Simd<T>::kExpLow))));
  const Vec<T> tail = reciprocal(T(1) + e);
  return {vmax(p, Vec<T>{}) + log_one_plus(e), select(p > T(0), tail, e * tail)};
}

// The weights as products want them, shared by all threads.
template <class T>
class Potential {
 public:
  struct Layer {
    int64_t width, inputs, first;  // inputs: width of the layer below; first: its row in maps
    int64_t bias;                  // where its part of a class's bias begins
    const T* weight;               // V, (width, inputs)
    Array<T> transposed;
  };

  explicit Potential(const PotentialArguments& args)
      : args_(args), maps_(args.rows * args.dim), transposed_(maps_.size()),
        top_(args.widths[args.layers - 1]) {
    const T sharp = T(args.sharpness), root = std::sqrt(sharp);
    int64_t first = 0, bias = 0;
    for (int64_t l = 0; l < args.layers; ++l) {
      const int64_t n = args.widths[l], below = l ? args.widths[l - 1] : 0;
      layers_.push_back({n, below, first, bias, nullptr, Array<T>(n * below)});
      if (l) {
        layers_[l].weight = static_cast<const T*>(args.hidden[l - 1]);
        for (int64_t i = 0; i < n; ++i)
          for (int64_t j = 0; j < below; ++j)
            layers_[l].transposed[j * n + i] = layers_[l].weight[i * below + j];
      }
      first += 2 * n;
      bias += n;
    }
    biases_ = bias;
    const auto* maps = static_cast<const T*>(args.maps);
    for (int64_t r = 0; r < args.rows; ++r) {
      const T scale = row_scale(r, sharp, root);
      for (int64_t k = 0; k < args.dim; ++k)
        transposed_[k * args.rows + r] = maps_[r * args.dim + k] = scale * maps[r * args.dim + k];
    }
    bias_.resize(args.classes * biases_);
    for (size_t i = 0; i < bias_.size(); ++i)
      bias_[i] = sharp * static_cast<const T*>(args.bias)[i];
    for (size_t i = 0; i < top_.size(); ++i)
      top_[i] = static_cast<const T*>(args.top)[i] / sharp;
  }

  int64_t dim() const { return args_.dim; }
  int64_t rows() const { return args_.rows; }
  int64_t classes() const { return args_.classes; }
  int64_t biases() const { return biases_; }
  int64_t quadratic() const { return layers_.back().first + 2 * layers_.back().width; }
  T strong() const { return T(args_.strong); }
  const std::vector<Layer>& layers() const { return layers_; }
  const T* maps() const { return maps_.data(); }
  const T* transposed() const { return transposed_.data(); }
  const T* top() const { return top_.data(); }
  const T* bias(int64_t label) const { return &bias_[label * biases_]; }
  const T* linear(int64_t label) const {
    return static_cast<const T*>(args_.linear) + label * args_.dim;
  }
  // What scaled maps are of the caller's.
  T map_scale(int64_t row) const {
    const T sharp = T(args_.sharpness);
    return row_scale(row, sharp, std::sqrt(sharp));
  }
  T sharpness() const { return T(args_.sharpness); }

 private:
  T row_scale(int64_t row, T sharp, T root) const {
    for (const Layer& layer : layers_)
      if (row < layer.first + 2 * layer.width)
        return row < layer.first + layer.width ? sharp : root;
    return T(1);
  }

  const PotentialArguments& args_;
  std::vector<Layer> layers_;
  int64_t biases_ = 0;
  Array<T> maps_, transposed_, bias_, top_;
};

// One thread's lanes: arrays are (features, kLanes), of which the first columns are in use.
template <class T>
class PotentialLanes {
 public:
  static constexpr int64_t kLanes = NV * W<T>;

  explicit PotentialLanes(const Potential<T>& u)
      : u_(u), products_(u.rows() * kLanes), slope_(u.biases() * kLanes), h_(slope_.size()),
        back_(slope_.size()), bias_(u.classes() > 1 ? slope_.size() : 0) {}

  void set_label(int64_t lane, int64_t label) {
    if (u_.classes() == 1) return;
    const T* bias = u_.bias(label);
    for (int64_t i = 0; i < u_.biases(); ++i) bias_[i * kLanes + lane] = bias[i];
  }
  void move_label(int64_t from, int64_t to) {
    if (u_.classes() == 1) return;
    for (int64_t i = 0; i < u_.biases(); ++i) bias_[i * kLanes + to] = bias_[i * kLanes + from];
  }

  // All that depends on no gradient; weight multiplies the result of each lane, null for 1.
  void forward(int64_t columns, const T* x, const T* weight = nullptr) {
    T* const p0 = products_.data();
    gemm(0, u_.rows(), columns, u_.dim(), u_.maps(), u_.dim(), x, kLanes, p0, kLanes);
    const auto& layers = u_.layers();
    for (const auto& layer : layers) {
      T *p = p0 + layer.first * kLanes, *r = p + layer.width * kLanes;
      const bool last = &layer == &layers.back();
      if (layer.inputs)
        gemm(0, layer.width, columns, layer.inputs, layer.weight, layer.inputs,
             &h_[(layer.bias - layer.inputs) * kLanes], kLanes, p, kLanes, true);
      for (int64_t i = 0; i < layer.width; ++i) {
        const T top = last ? u_.top()[i] : T(0);
        for (int64_t j = i * kLanes; j < i * kLanes + columns; j += W<T>) {
          const Vec<T> square = load(r + j);
          const auto s = softplus<T>(load(p + j) + square * square + bias(layer.bias + i, j % kLanes));
          store(&h_[layer.bias * kLanes + j], s.value);
          if (!last) {
            store(&slope_[layer.bias * kLanes + j], s.slope);
            continue;
          }
          Vec<T> delta = top * s.slope;
          if (weight) delta *= load(weight + j % kLanes);
          store(p + j, delta);
          store(r + j, T(2) * square * delta);
        }
      }
    }
    if (!weight) return;
    for (int64_t i = u_.quadratic() * kLanes; i < u_.rows() * kLanes; i += kLanes)
      for (int64_t j = 0; j < columns; j += W<T>)
        store(p0 + i + j, load(p0 + i + j) * load(weight + j));
  }
  // After forward: products become what multiplies the maps in the gradient.
  void backward(int64_t columns) {
    const auto& layers = u_.layers();
    for (size_t l = layers.size() - 1; l > 0; --l) {
      const auto &layer = layers[l], &below = layers[l - 1];
      T* p = &products_[below.first * kLanes];
      T* r = p + below.width * kLanes;
      gemm(0, layer.inputs, columns, layer.width, layer.transposed.data(), layer.width,
           &products_[layer.first * kLanes], kLanes, back_.data(), kLanes);
      for (int64_t i = 0; i < below.width * kLanes; i += kLanes)
        for (int64_t j = i; j < i + columns; j += W<T>) {
          const Vec<T> delta = load(&back_[j]) * load(&slope_[below.bias * kLanes + j]);
          store(p + j, delta);
          store(r + j, T(2) * load(r + j) * delta);
        }
    }
  }
  // grad = weight * (gradient of u without its linear term).
  void gradient(int64_t columns, const T* x, T* grad, const T* weight = nullptr) {
    forward(columns, x, weight);
    backward(columns);
    gemm(0, u_.dim(), columns, u_.rows(), u_.transposed(), u_.rows(), products_.data(), kLanes,
         grad, kLanes);
    for (int64_t i = 0; i < u_.dim() * kLanes; i += kLanes)
      for (int64_t j = 0; j < columns; j += W<T>) {
        const Vec<T> pull = u_.strong() * load(x + i + j);
        store(grad + i + j, load(grad + i + j) + (weight ? pull * load(weight + j) : pull));
      }
  }

  T* products() { return products_.data(); }
  const T* h() const { return h_.data(); }

 private:
  Vec<T> bias(int64_t i, int64_t column) const {
    return u_.classes() > 1 ? load(&bias_[i * kLanes + column]) : splat(u_.bias(0)[i]);
  }

  const Potential<T>& u_;
  Array<T> products_, slope_, h_, back_, bias_;
};

}  // namespace
