// log sum_y exp(h(y) - C(x, y) / epsilon), in whichever domain holds it.
#pragma once

#include <optional>

#include "scaling.h"

namespace {

// K x for K = exp(-C / epsilon), with the kernel of the last epsilon kept.
template <class Cost, class T>
class GibbsProduct {
 public:
  using Real = T;
  explicit GibbsProduct(const Cost& geo) : geo_(geo), kernel_(geo) {}

  // Whether all of out is in range. In single precision out is scaled by some constant.
  bool operator()(Team& team, const T* x, double epsilon, T* out) {
    if (!fits<T>(geo_, epsilon)) return false;
    kernel_.prepare(team, epsilon);
    typename Kernel::Trace trace;
    kernel_.forward(team, x, out, trace);
    const auto [low, high] = extent(team, out, size<T>(geo_.n));
    return low > Range<T>::tiny * std::exp(kernel_.shift()) && high < Range<T>::huge;
  }

 private:
  using Kernel = typename Kernels<Cost>::template Scaling<T>;
  const Cost& geo_;
  Kernel kernel_;
};

// log K exp(h): in the scaling domain where all sums are in range, in the log domain otherwise.
template <class Cost>
class LogSumExp {
 public:
  explicit LogSumExp(const Cost& geo) : geo_(geo), product_(geo), x_(size<double>(geo.m)) {}

  GibbsProduct<Cost, double>& product() { return product_; }

  void operator()(Team& team, const double* h, double epsilon, double* out) {
    if (in_scaling_domain(team, h, epsilon, out)) return;
    team.once([&] { log_.emplace(geo_, epsilon); });
    log_->forward(team, h, out);
  }

 private:
  bool in_scaling_domain(Team& team, const double* h, double epsilon, double* out) {
    const double shift = extent(team, h, size<double>(geo_.m)).high;
    if (!(std::abs(shift) < kInf)) return false;
    const auto [from, to] = team.share(size<double>(geo_.m), W<double>);
    for (int64_t i = from; i < to; i += W<double>) store(&x_[i], vexp(load(h + i) - shift));
    team.barrier();
    if (!product_(team, x_.data(), epsilon, out)) return false;
    const auto [first, last] = team.share(size<double>(geo_.n), W<double>);
    for (int64_t i = first; i < last; i += W<double>)
      store(out + i, vlog(load(out + i)) + shift);
    team.barrier();
    return true;
  }

  const Cost& geo_;
  GibbsProduct<Cost, double> product_;
  Buffer x_;
  std::optional<typename Kernels<Cost>::Log> log_;
};

// A batch of them; h is (batch, m...), out is (batch, n...).
template <class Cost>
void log_sum_exp_batch(int64_t batch, const Cost& geo, const double* h, const double* epsilon,
                       int threads, double* out) {
  const int64_t nn = geo.n.count(), mm = geo.m.count();
  struct Own {
    LogSumExp<Cost> log_sum_exp;
    Buffer x, l;
    explicit Own(const Cost& geo)
        : log_sum_exp(geo), x(size<double>(geo.m)), l(size<double>(geo.n)) {}
  };
  for_each_problem(
      batch, threads, geo.work > kTogetherAbove, [&] { return std::make_unique<Own>(geo); },
      [&](Team& team, int64_t i, Own& own) {
        copy_lines(team, geo.m, h + i * mm, geo.m[2], -kInf, own.x.data());
        team.barrier();
        own.log_sum_exp(team, own.x.data(), epsilon[i], own.l.data());
        const auto [from, to] = team.share(geo.n.lines());
        for (int64_t r = from; r < to; ++r)
          std::memcpy(out + i * nn + r * geo.n[2], &own.l[r * stride<double>(geo.n)],
                      geo.n[2] * sizeof(double));
      });
}

}  // namespace
