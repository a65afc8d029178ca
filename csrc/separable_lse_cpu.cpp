// out(x) = log sum_y exp(h(y) - C(x, y) / epsilon) for a separable cost: in the scaling domain
// where all sums are in range, in the log domain otherwise.

#include <optional>

#include "separable.h"

namespace {

bool lse_scaling(ScalingKernel& kernel, const Geometry& geo, const Buffer& h, Buffer& x,
                 Buffer& out) {
  Vec top = splat(-kInf);
  for (int64_t i = 0; i < geo.m.size(); i += W) top = vmax(top, load(&h[i]));
  const double shift = hmax(top);
  if (!(std::abs(shift) < kInf)) return false;
  for (int64_t i = 0; i < geo.m.size(); i += W) store(&x[i], vexp(load(&h[i]) - shift));
  kernel.forward(x.data(), out.data());
  Vec low = splat(kInf);
  for (int64_t i = 0; i < geo.n.size(); i += W) {
    const Vec s = load(&out[i]);
    low = vmin(low, s);
    store(&out[i], vlog(s) + shift);
  }
  return hmin(low) > kTiny;
}

}  // namespace

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

// h is (batch, m...), out is (batch, n...), costs[k] is (n_k, m_k), all contiguous.
extern "C" void JOIN(separable_lse_, ISA)(int64_t batch, int d, const int64_t* shape_n,
                                          const int64_t* shape_m, const double* const* costs,
                                          const double* h, const double* epsilon, int threads,
                                          double* out) {
  const Geometry geo(d, shape_n, shape_m, costs);
  const int outer = int(std::min<int64_t>(batch, threads)), inner = std::max(1, threads / outer);
  const int64_t nn = geo.n.count(), mm = geo.m.count();
#pragma omp parallel num_threads(outer) if (outer > 1)
  {
    FlushSubnormals flush;
    std::optional<ScalingKernel> scaling;
    Buffer padded_h(geo.m.size()), x(geo.m.size()), l(geo.n.size());
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < batch; ++i) {
      pad_rows(h + i * mm, geo.m, -kInf, padded_h.data());
      if (!scaling || scaling->epsilon() != epsilon[i]) scaling.emplace(geo, epsilon[i], inner);
      if (!lse_scaling(*scaling, geo, padded_h, x, l))
        LogKernel(geo, epsilon[i], inner).forward(padded_h.data(), l.data());
      unpad_rows(l.data(), geo.n, out + i * nn);
    }
  }
}
