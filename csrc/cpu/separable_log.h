// log sum_y exp(h(y) - C(x, y) / epsilon) of a separable cost, axis by axis, in any range.
#pragma once

#include <optional>

#include "separable_scaling.h"

namespace {

// Terms more than e^-45 below the largest are skipped: they cannot change a double.
class SeparableLog {
 public:
  SeparableLog(const SeparableCost& geo, double epsilon) : geo_(geo) {
    for (int k = 0; k < 3; ++k) {
      const int64_t n = geo.n[k], m = geo.m[k];
      forward_[k].resize(n * m);
      backward_[k].resize(n * m);
      for (int64_t i = 0; i < n * m; ++i) forward_[k][i] = geo.cost[k][i] / epsilon;
      ::transpose(n, m, forward_[k].data(), m, backward_[k].data(), n);
    }
    const int64_t lines = std::max(geo.n[0], geo.m[0]) * std::max(geo.n[1], geo.m[1]);
    const int64_t length = std::max(stride<double>(geo.n), stride<double>(geo.m));
    const int64_t size = length * padded<double>(lines);
    for (Buffer* b : {&x_, &y_, &mean_x_, &mean_y_}) b->resize(size);
  }

  void forward(Team& team, const double* h, double* out) {
    apply<false>(team, forward_, geo_.m, geo_.n, h, out, nullptr);
  }
  void backward(Team& team, const double* h, double* out) {
    apply<false>(team, backward_, geo_.n, geo_.m, h, out, nullptr);
  }
  // Also the mean of C under the weights of the sum.
  void forward_mean(Team& team, const double* h, double* out, double* mean) {
    apply<true>(team, forward_, geo_.m, geo_.n, h, out, mean);
  }

 private:
  // Contract the leading axis: x is (in, R), out is (to, R), c is (to, in), R whole vectors.
  template <bool kMean, int V>
  static void contract(int64_t in, int64_t to, int64_t R, const double* c, const double* cost,
                       const double* x, const double* mean, double* out, double* mean_out) {
    constexpr int w = W<double>;
    for (int64_t i = 0; i < to; ++i) {
      const double* ci = c + i * in;
      Vec<double> top[V];
      for (int v = 0; v < V; ++v) top[v] = splat(-1e300);  // finite: an empty sum gives -inf below
      for (int64_t j = 0; j < in; ++j)
        for (int v = 0; v < V; ++v) top[v] = vmax(top[v], load(x + j * R + v * w) - ci[j]);
      Vec<double> sum[V] = {}, weighted[V] = {};
      for (int64_t j = 0; j < in; ++j) {
        for (int v = 0; v < V; ++v) {
          Vec<double> t = load(x + j * R + v * w) - ci[j] - top[v];
          if (!any(t > -45.0)) continue;
          Vec<double> e = vexp(t);
          sum[v] += e;
          if constexpr (kMean) weighted[v] += e * (load(mean + j * R + v * w) + cost[i * in + j]);
        }
      }
      for (int v = 0; v < V; ++v) {
        store(out + i * R + v * w, top[v] + vlog(sum[v]));
        if constexpr (kMean)
          store(mean_out + i * R + v * w,
                select(sum[v] > 0.0, weighted[v] / sum[v], Vec<double>{}));
      }
    }
  }

  // Every slice of x, (slices, in, R), by its leading axis.
  template <bool kMean>
  void leading(Team& team, int k, int64_t slices, int64_t in, int64_t to, int64_t R,
               const Buffer& c) {
    const int64_t blocks = (R + 2 * W<double> - 1) / (2 * W<double>);
    const auto [from, to_block] = team.share(slices * blocks);
    for (int64_t b = from; b < to_block; ++b) {
      const int64_t slice = b / blocks, r = b % blocks * 2 * W<double>;
      const int64_t at = slice * in * R + r, out_at = slice * to * R + r;
      const auto run = [&](auto width) {
        contract<kMean, decltype(width)::value>(in, to, R, c.data(), geo_.cost[k], &x_[at],
                                                &mean_x_[at], &y_[out_at], &mean_y_[out_at]);
      };
      if (r + 2 * W<double> <= R)
        run(std::integral_constant<int, 2>());
      else
        run(std::integral_constant<int, 1>());
    }
    finish_stage(team);
  }

  static void transpose(Team& team, const double* x, int64_t rows, int64_t cols, int64_t ldx,
                        double* out, int64_t ldo) {
    const auto [from, to] = team.share(cols);
    for (int64_t c = from; c < to; ++c) {
      for (int64_t r = 0; r < rows; ++r) out[c * ldo + r] = x[r * ldx + c];
      for (int64_t r = rows; r < ldo; ++r) out[c * ldo + r] = out[c * ldo + rows - 1];
    }
  }
  void finish_stage(Team& team) {  // the results become the next stage's input
    team.once([&] {
      x_.swap(y_);
      mean_x_.swap(mean_y_);
    });
  }

  template <bool kMean>
  void apply(Team& team, const Buffer* c, const Shape& in, const Shape& to, const double* h,
             double* out, double* mean) {
    const int64_t lines = in.lines(), R = padded<double>(lines);
    transpose(team, h, lines, in[2], stride<double>(in), x_.data(), R);
    if constexpr (kMean) {
      const auto [from, end] = team.share(in[2]);
      std::fill(&mean_x_[from * R], &mean_x_[from * R] + (end - from) * R, 0.0);
    }
    team.barrier();
    leading<kMean>(team, 2, 1, in[2], to[2], R, c[2]);
    transpose(team, x_.data(), to[2], lines, R, y_.data(), stride<double>(to));
    if constexpr (kMean)
      transpose(team, mean_x_.data(), to[2], lines, R, mean_y_.data(), stride<double>(to));
    finish_stage(team);
    const int64_t line = stride<double>(to);
    if (in[1] * to[1] > 1) leading<kMean>(team, 1, in[0], in[1], to[1], line, c[1]);
    if (in[0] * to[0] > 1) leading<kMean>(team, 0, 1, in[0], to[0], to[1] * line, c[0]);
    const auto [from, end] = team.share(size<double>(to));
    std::copy(&x_[from], &x_[from] + (end - from), out + from);
    if constexpr (kMean) std::copy(&mean_x_[from], &mean_x_[from] + (end - from), mean + from);
    team.barrier();
  }

  const SeparableCost& geo_;
  Buffer forward_[3], backward_[3];
  Buffer x_, y_, mean_x_, mean_y_;
};

template <>
struct Kernels<SeparableCost> {
  template <class T>
  using Scaling = SeparableScaling<T>;
  using Log = SeparableLog;
};

}  // namespace
