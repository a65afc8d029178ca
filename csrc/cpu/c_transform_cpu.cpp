// The points where u(y) - z . y is least, for a batch of z: per-point L-BFGS with a line search on
// slopes, a point per lane. A lane whose point is done takes the next one.

#include <atomic>
#include <memory>

#include "potential.h"
#include "stretch.h"

// z and start are (batch, dim), tolerance (batch,); preconditioner, (dim, dim) and symmetric, is
// about the inverse of the Hessian of u, or null for the identity; labels may be null. Results:
// where the search ended, the length of the gradient there, and gradients taken.
struct CTransformArguments {
  int64_t batch;
  PotentialArguments potential;
  const void *z, *start, *tolerance, *preconditioner;
  const int64_t* labels;
  int64_t memory, max_iter;
  int threads;
  void *y, *residual;
  int32_t* n_iters;
  uint8_t* converged;
};

namespace {

template <class T>
class Descent {
 public:
  static constexpr int64_t N = PotentialLanes<T>::kLanes;

  Descent(const CTransformArguments& args, const Potential<T>& u, std::atomic<int64_t>& next)
      : args_(args), u_(u), lanes_(u), next_(next), d_(u.dim()), z_(d_ * N), y_(d_ * N),
        f_(d_ * N), step_(d_ * N), trial_(d_ * N), g_(d_ * N), q_(d_ * N), scratch_(d_ * N),
        steps_(args.memory * d_ * N), changes_(steps_.size()) {}

  void run() {
    for (int64_t lane = 0; lane < N && take(lane); ++lane) ++active_;
    while (active_ > 0) {
      const int64_t columns = padded<T>(active_);
      choose_directions(columns);
      each(columns, [&](int64_t i, int64_t j) {
        store(&trial_[i + j], load(&y_[i + j]) + load(&length_[j]) * load(&step_[i + j]));
      });
      lanes_.gradient(columns, trial_.data(), g_.data());
      judge(columns);
      for (int64_t lane = active_ - 1; lane >= 0; --lane)
        if (done_[lane]) retire(lane);
      newest_ = (newest_ + 1) % args_.memory;
    }
  }

 private:
  using Row = T[N];

  template <class F>
  void each(int64_t columns, F f) const {
    for (int64_t i = 0; i < d_ * N; i += N)
      for (int64_t j = 0; j < columns; j += W<T>) f(i, j);
  }
  void dot(int64_t columns, const T* a, const T* b, Row& out) const {
    Vec<T> sum[NV] = {};
    for (int64_t i = 0; i < d_ * N; i += N)
      for (int64_t j = 0; j < columns; j += W<T>)
        sum[j / W<T>] += load(a + i + j) * load(b + i + j);
    for (int64_t j = 0; j < columns; j += W<T>) store(out + j, sum[j / W<T>]);
  }
  // out = preconditioner in
  void precondition(int64_t columns, const T* in, T* out) const {
    if (!args_.preconditioner) {
      each(columns, [&](int64_t i, int64_t j) { store(out + i + j, load(in + i + j)); });
      return;
    }
    gemm(0, d_, columns, d_, static_cast<const T*>(args_.preconditioner), d_, in, N, out, N);
  }
  T* steps(int64_t slot) { return &steps_[slot * d_ * N]; }
  T* changes(int64_t slot) { return &changes_[slot * d_ * N]; }

  // q = H f by the two loops; then the step of every lane that needs one, down its slope.
  void choose_directions(int64_t columns) {
    const int64_t m = args_.memory;
    std::memcpy(q_.data(), f_.data(), f_.size() * sizeof(T));
    for (int64_t k = 1; k <= m; ++k) {
      const int64_t slot = (newest_ + m - k) % m;
      Row product;
      dot(columns, steps(slot), q_.data(), product);
      for (int64_t j = 0; j < columns; ++j) weight_[slot][j] = inverse_[slot][j] * product[j];
      each(columns, [&](int64_t i, int64_t j) {
        T* q = &q_[i + j];
        store(q, load(q) - load(&weight_[slot][j]) * load(changes(slot) + i + j));
      });
    }
    precondition(columns, q_.data(), scratch_.data());
    each(columns, [&](int64_t i, int64_t j) {
      store(&q_[i + j], load(&scratch_[i + j]) * load(&curvature_[j]));
    });
    for (int64_t k = m; k >= 1; --k) {
      const int64_t slot = (newest_ + m - k) % m;
      Row product;
      dot(columns, changes(slot), q_.data(), product);
      for (int64_t j = 0; j < columns; ++j)
        product[j] = weight_[slot][j] - inverse_[slot][j] * product[j];
      each(columns, [&](int64_t i, int64_t j) {
        T* q = &q_[i + j];
        store(q, load(q) + load(product + j) * load(steps(slot) + i + j));
      });
    }
    Row along, squared;
    dot(columns, q_.data(), f_.data(), along);
    dot(columns, f_.data(), f_.data(), squared);
    for (int64_t lane = 0; lane < active_; ++lane) {
      if (!wants_direction_[lane]) continue;
      const bool descends = along[lane] > 0 && std::isfinite(along[lane]);
      const T scale = descends ? T(1) : curvature_[lane];
      const T* from = descends ? q_.data() : f_.data();
      for (int64_t i = lane; i < d_ * N; i += N) step_[i] = -scale * from[i];
      slope_[lane] = descends ? along[lane] : scale * squared[lane];
      length_[lane] = 1;
    }
  }

  // Which trials are taken; every trial, taken or not, tells about the curvature.
  void judge(int64_t columns) {
    T *s = steps(newest_), *c = changes(newest_);
    each(columns, [&](int64_t i, int64_t j) {
      const Vec<T> g = load(&g_[i + j]) - load(&z_[i + j]);
      store(&g_[i + j], g);
      store(s + i + j, load(&trial_[i + j]) - load(&y_[i + j]));
      store(c + i + j, g - load(&f_[i + j]));
    });
    Row ahead, both, moved, turned, size;
    dot(columns, g_.data(), step_.data(), ahead);
    dot(columns, s, c, both);
    dot(columns, s, s, moved);
    precondition(columns, c, scratch_.data());
    dot(columns, c, scratch_.data(), turned);
    dot(columns, g_.data(), g_.data(), size);
    for (int64_t j = 0; j < columns; ++j) {
      const bool known = j < active_ && !fresh_[j] && both[j] > T(1e-12) * moved[j] &&
                         std::isfinite(turned[j]) && both[j] > 0 && turned[j] > 0;
      inverse_[newest_][j] = known ? 1 / both[j] : T(0);
      pick_[j] = 0;
      if (!known)
        for (int64_t i = j; i < d_ * N; i += N) s[i] = c[i] = 0;
      if (j >= active_) continue;
      if (known) curvature_[j] = both[j] / turned[j];
      ++n_iters_[j];
      const bool solved = size[j] <= tolerance_[j] * tolerance_[j];
      const bool taken = fresh_[j] || solved || ahead[j] <= T(0.5) * slope_[j];
      if (taken) {
        pick_[j] = 1;
        residual_[j] = std::sqrt(size[j]);
      } else {
        const T shrink = slope_[j] / (slope_[j] + ahead[j]);
        length_[j] *= shrink > T(0.05) ? std::min(shrink, T(0.7)) : T(0.05);
      }
      wants_direction_[j] = taken;
      fresh_[j] = false;
      solved_[j] = solved;
      done_[j] = solved || n_iters_[j] >= args_.max_iter ||
                 (taken && !std::isfinite(size[j]));
    }
    each(columns, [&](int64_t i, int64_t j) {
      const auto taken = load(&pick_[j]) > T(0);
      store(&y_[i + j], select(taken, load(&trial_[i + j]), load(&y_[i + j])));
      store(&f_[i + j], select(taken, load(&g_[i + j]), load(&f_[i + j])));
    });
  }

  bool take(int64_t lane) {
    const int64_t i = next_.fetch_add(1, std::memory_order_relaxed);
    if (i >= args_.batch) return false;
    const int64_t label = args_.labels ? args_.labels[i] : 0;
    const T *z = static_cast<const T*>(args_.z) + i * d_, *linear = u_.linear(label);
    const T* start = static_cast<const T*>(args_.start) + i * d_;
    for (int64_t k = 0; k < d_; ++k) {
      z_[k * N + lane] = z[k] - linear[k];
      y_[k * N + lane] = start[k];
      f_[k * N + lane] = step_[k * N + lane] = 0;
    }
    lanes_.set_label(lane, label);
    for (int64_t slot = 0; slot < args_.memory; ++slot) inverse_[slot][lane] = 0;
    tolerance_[lane] = static_cast<const T*>(args_.tolerance)[i];
    curvature_[lane] = 1;
    length_[lane] = 0;
    index_[lane] = i;
    n_iters_[lane] = 0;
    fresh_[lane] = true;
    wants_direction_[lane] = done_[lane] = false;
    return true;
  }

  // Write a lane's result and give it the next point; when there is none, the last active lane's.
  void retire(int64_t lane) {
    const int64_t i = index_[lane];
    for (int64_t k = 0; k < d_; ++k) static_cast<T*>(args_.y)[i * d_ + k] = y_[k * N + lane];
    static_cast<T*>(args_.residual)[i] = residual_[lane];
    args_.n_iters[i] = n_iters_[lane];
    args_.converged[i] = solved_[lane];
    if (take(lane)) return;
    const int64_t last = --active_;
    if (last == lane) return;
    for (Array<T>* array : {&z_, &y_, &f_, &step_, &steps_, &changes_})
      for (size_t k = 0; k < array->size(); k += N) (*array)[k + lane] = (*array)[k + last];
    lanes_.move_label(last, lane);
    for (int64_t slot = 0; slot < args_.memory; ++slot)
      inverse_[slot][lane] = inverse_[slot][last];
    for (Row* row : {&tolerance_, &curvature_, &length_, &slope_, &residual_})
      (*row)[lane] = (*row)[last];
    index_[lane] = index_[last];
    n_iters_[lane] = n_iters_[last];
    fresh_[lane] = fresh_[last];
    wants_direction_[lane] = wants_direction_[last];
    done_[lane] = false;
  }

  static constexpr int64_t kMemory = 16;
  const CTransformArguments& args_;
  const Potential<T>& u_;
  PotentialLanes<T> lanes_;
  std::atomic<int64_t>& next_;
  const int64_t d_;
  // f is the gradient at y, g at the trial.
  Array<T> z_, y_, f_, step_, trial_, g_, q_, scratch_, steps_, changes_;
  Row tolerance_ = {}, curvature_ = {}, length_ = {}, slope_ = {}, residual_ = {}, pick_ = {};
  Row inverse_[kMemory] = {}, weight_[kMemory] = {};  // 1 / (step . change) of each pair
  int64_t index_[N] = {}, active_ = 0, newest_ = 0;
  int32_t n_iters_[N] = {};
  bool fresh_[N] = {}, wants_direction_[N] = {}, solved_[N] = {}, done_[N] = {};
};

template <class T>
void c_transform(const CTransformArguments& args) {
  const Potential<T> u(args.potential);
  std::atomic<int64_t> next{0};
  // Half a vector of points is not worth a thread.
  const int64_t tiles = (args.batch + W<T> - 1) / W<T>;
  for_each_stretch(
      tiles, args.threads, [&] { return std::make_unique<Descent<T>>(args, u, next); },
      [](auto& own, int64_t, int64_t) { own->run(); });
}

}  // namespace

extern "C" void PER_ISA(c_transform)(const CTransformArguments* args) {
  args->potential.single ? c_transform<float>(*args) : c_transform<double>(*args);
}
