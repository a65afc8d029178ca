// A potential at a batch of points, and the gradients of a weighted sum of its values.

#include <memory>

#include "potential.h"
#include "stretch.h"

// x is (batch, dim), labels null or (batch,). Of values and gradients either is asked for. weight
// (batch,) multiplies the values in the sum; dx is written, the other gradients are added to, unless
// they are null.
struct PotentialValueArguments {
  int64_t batch;
  PotentialArguments potential;
  const void *x, *weight;
  const int64_t* labels;
  int threads;
  void *value, *dx, *dmaps, *dbias, *dtop, *dlinear;
  void* const* dhidden;
};

namespace {

template <class T>
class Batch {
 public:
  static constexpr int64_t N = PotentialLanes<T>::kLanes;

  Batch(const PotentialValueArguments& args, const Potential<T>& u)
      : args_(args), u_(u), lanes_(u), d_(u.dim()), wide_(padded<T>(d_)), x_(d_ * N) {
    if (!args.weight) return;
    grad_.resize(d_ * N);
    if (!args.dmaps) return;
    points_.resize(N * wide_);
    dmaps_.resize(u.rows() * wide_);
    dbias_.resize(u.classes() * u.biases());
    dlinear_.resize(u.classes() * d_);
    dtop_.resize(u.layers().back().width);
    for (size_t l = 1; l < u.layers().size(); ++l) {
      const auto& layer = u.layers()[l];
      dhidden_.emplace_back(layer.width * padded<T>(layer.inputs));
      turned_.resize(std::max<size_t>(turned_.size(), N * padded<T>(layer.inputs)));
    }
  }

  void tile(int64_t first) {
    const int64_t count = std::min(N, args_.batch - first), columns = padded<T>(count);
    load_points(first, count);
    args_.weight ? gradients(first, count, columns) : values(first, count, columns);
  }

  void add_gradients() const {
    if (!args_.dmaps) return;
    auto* dmaps = static_cast<T*>(args_.dmaps);
    for (int64_t r = 0; r < u_.rows(); ++r)
      for (int64_t k = 0; k < d_; ++k)
        dmaps[r * d_ + k] += u_.map_scale(r) * dmaps_[r * wide_ + k];
    add(dbias_, u_.sharpness(), args_.dbias);
    add(dlinear_, T(1), args_.dlinear);
    add(dtop_, 1 / u_.sharpness(), args_.dtop);
    for (size_t l = 0; l < dhidden_.size(); ++l) {
      const auto& layer = u_.layers()[l + 1];
      auto* out = static_cast<T*>(args_.dhidden[l]);
      for (int64_t i = 0; i < layer.width; ++i)
        for (int64_t j = 0; j < layer.inputs; ++j)
          out[i * layer.inputs + j] += dhidden_[l][i * padded<T>(layer.inputs) + j];
    }
  }

 private:
  static void add(const Array<T>& from, T scale, void* to) {
    for (size_t i = 0; i < from.size(); ++i) static_cast<T*>(to)[i] += scale * from[i];
  }
  int64_t label(int64_t i) const { return args_.labels ? args_.labels[i] : 0; }

  void load_points(int64_t first, int64_t count) {
    const T* x = static_cast<const T*>(args_.x) + first * d_;
    for (int64_t lane = 0; lane < N; ++lane) {
      for (int64_t k = 0; k < d_; ++k) x_[k * N + lane] = lane < count ? x[lane * d_ + k] : T(0);
      if (lane < count) lanes_.set_label(lane, label(first + lane));
    }
  }

  void values(int64_t first, int64_t count, int64_t columns) {
    lanes_.forward(columns, x_.data());
    const auto& last = u_.layers().back();
    const T* h = lanes_.h() + last.bias * N;
    T total[N];
    for (int64_t j = 0; j < columns; j += W<T>) {
      Vec<T> network{}, square{};
      for (int64_t i = 0; i < last.width; ++i) network += u_.top()[i] * load(h + i * N + j);
      for (int64_t r = u_.quadratic(); r < u_.rows(); ++r) {
        const Vec<T> p = load(lanes_.products() + r * N + j);
        square += p * p;
      }
      Vec<T> length{};
      for (int64_t k = 0; k < d_; ++k) length += load(&x_[k * N + j]) * load(&x_[k * N + j]);
      store(total + j, network + T(0.5) * (square + u_.strong() * length));
    }
    for (int64_t lane = 0; lane < count; ++lane) {
      const T* linear = u_.linear(label(first + lane));
      T sum = total[lane];
      for (int64_t k = 0; k < d_; ++k) sum += linear[k] * x_[k * N + lane];
      static_cast<T*>(args_.value)[first + lane] = sum;
    }
  }

  void gradients(int64_t first, int64_t count, int64_t columns) {
    T weight[N] = {};
    std::memcpy(weight, static_cast<const T*>(args_.weight) + first, count * sizeof(T));
    lanes_.gradient(columns, x_.data(), grad_.data(), weight);
    T* dx = static_cast<T*>(args_.dx) + first * d_;
    for (int64_t lane = 0; lane < count; ++lane) {
      const int64_t k = label(first + lane);
      const T* linear = u_.linear(k);
      for (int64_t i = 0; i < d_; ++i) {
        dx[lane * d_ + i] = grad_[i * N + lane] + weight[lane] * linear[i];
        if (!args_.dmaps) continue;
        dlinear_[k * d_ + i] += weight[lane] * x_[i * N + lane];
        points_[lane * wide_ + i] = x_[i * N + lane];
      }
    }
    if (args_.dmaps) weight_gradients(first, count, columns, weight);
  }
  void weight_gradients(int64_t first, int64_t count, int64_t columns, const T* weight) {
    const T* products = lanes_.products();
    gemm(0, u_.rows(), wide_, columns, products, N, points_.data(), wide_, dmaps_.data(), wide_,
         true);
    for (const auto& layer : u_.layers()) {
      const T *delta = products + layer.first * N, *h = lanes_.h() + layer.bias * N;
      for (int64_t i = 0; i < layer.width; ++i) {
        if (u_.classes() > 1) {
          for (int64_t lane = 0; lane < count; ++lane)
            dbias_[label(first + lane) * u_.biases() + layer.bias + i] += delta[i * N + lane];
        } else {
          dbias_[layer.bias + i] += sum(columns, delta + i * N);
        }
      }
      if (&layer == &u_.layers().back())
        for (int64_t i = 0; i < layer.width; ++i) dtop_[i] += sum(columns, h + i * N, weight);
      if (layer.inputs) hidden_gradient(layer, delta, columns);
    }
  }
  void hidden_gradient(const typename Potential<T>::Layer& layer, const T* delta,
                       int64_t columns) {
    const int64_t wide = padded<T>(layer.inputs);
    const T* h = lanes_.h() + (layer.bias - layer.inputs) * N;
    for (int64_t lane = 0; lane < columns; ++lane)
      for (int64_t i = 0; i < layer.inputs; ++i) turned_[lane * wide + i] = h[i * N + lane];
    gemm(0, layer.width, wide, columns, delta, N, turned_.data(), wide,
         dhidden_[&layer - u_.layers().data() - 1].data(), wide, true);
  }
  static T sum(int64_t columns, const T* a, const T* b = nullptr) {
    Vec<T> total{};
    for (int64_t j = 0; j < columns; j += W<T>)
      total += b ? load(a + j) * load(b + j) : load(a + j);
    return T(hsum(total));
  }

  const PotentialValueArguments& args_;
  const Potential<T>& u_;
  PotentialLanes<T> lanes_;
  const int64_t d_, wide_;
  Array<T> x_, points_, grad_, dmaps_, dbias_, dlinear_, dtop_, turned_;
  std::vector<Array<T>> dhidden_;  // of V_2, V_3, ...
};

template <class T>
void potential(const PotentialValueArguments& args) {
  const Potential<T> u(args.potential);
  constexpr int64_t N = Batch<T>::N;
  for_each_stretch(
      (args.batch + N - 1) / N, args.threads,
      [&] { return std::make_unique<Batch<T>>(args, u); },
      [](auto& own, int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) own->tile(i * N);
      },
      [](const auto& own) { own->add_gradients(); });
}

}  // namespace

extern "C" void PER_ISA(potential)(const PotentialValueArguments* args) {
  args->potential.single ? potential<float>(*args) : potential<double>(*args);
}
