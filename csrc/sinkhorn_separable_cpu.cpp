// The whole Sinkhorn solve of a batch of problems on a separable cost, multiscale start included.

#include "pyramid.h"
#include "solve_batch.h"

namespace {

template <class M>
struct PyramidStart {
  std::unique_ptr<Pyramid<M>> pyramid;
  const double* epsilon;

  double operator()(Team& team, int64_t i, Workspace& p, State& state) const {
    return pyramid->start(team, p, epsilon[i], state);
  }
};

}  // namespace

// Shapes and costs are those of SeparableCost; a and f are (batch, n...), b and g are (batch, m...), all
// contiguous. They, cost, value and marginal_error are of floats where single is set, which also is
// the precision of the arithmetic far from the solution. f and g are in units of cost, with <g, b> = 0. The start is that of the
// pyramid, else g itself as it is on entry.
extern "C" void PER_ISA(sinkhorn_separable)(
    int64_t batch, int d, const int64_t* shape_n, const int64_t* shape_m,
    const double* const* costs, int single, const void* a, const void* b, const double* epsilon,
    const PyramidArguments* pyramid, double tol, int criterion, int max_iter,
    double overrelaxation, int threads, void* f, void* g, void* cost, void* value,
    void* marginal_error, int32_t* n_iters, uint8_t* converged, uint8_t* log_domain,
    double* coarse_work) {
  const SeparableCost geo(d, shape_of(d, shape_n), shape_of(d, shape_m), costs);
  // A small relative change of the cost would be noise in single precision.
  const bool rough = single && (criterion != kCost || tol >= 1e-5);
  const Options options{tol, criterion, max_iter, overrelaxation, rough};
  const auto solve = [&](auto type, auto measures) {
    using T = decltype(type);
    using M = decltype(measures);
    const Diagnostics<T> out{static_cast<T*>(cost), static_cast<T*>(value),
                             static_cast<T*>(marginal_error), coarse_work, n_iters, converged,
                             log_domain};
    const auto from = [&](auto start) {
      solve_batch<M>(batch, geo, static_cast<const T*>(a), static_cast<const T*>(b), epsilon,
                     options, threads, start, static_cast<T*>(f), static_cast<T*>(g), out);
    };
    if (pyramid)
      from([&] { return PyramidStart<M>{std::make_unique<Pyramid<M>>(*pyramid, geo, d), epsilon}; });
    else
      from([&] { return GivenStart<T>{geo, epsilon, static_cast<const T*>(g)}; });
  };
  if (rough)
    solve(float(), float());
  else if (single)
    solve(float(), double());
  else
    solve(double(), double());
}
