// out(x) = log sum_y exp(h(y) - C(x, y) / epsilon) for a separable cost.

#include "separable_log.h"

// h is (batch, m...), out is (batch, n...), costs[k] is (n_k, m_k), all contiguous.
extern "C" void PER_ISA(separable_lse)(int64_t batch, int d, const int64_t* shape_n,
                                       const int64_t* shape_m, const double* const* costs,
                                       const double* h, const double* epsilon, int threads,
                                       double* out) {
  const SeparableCost geo(d, shape_of(d, shape_n), shape_of(d, shape_m), costs);
  const int64_t nn = geo.n.count(), mm = geo.m.count();
  struct Own {
    LogSumExp log_sum_exp;
    Buffer x, l;
    explicit Own(const SeparableCost& geo)
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
