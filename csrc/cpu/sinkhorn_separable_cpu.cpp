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

// Shapes and costs are those of SeparableCost; the start is that of the pyramid, where there is one.
extern "C" void PER_ISA(sinkhorn_separable)(const SolveArguments* args, int d,
                                            const int64_t* shape_n, const int64_t* shape_m,
                                            const double* const* costs,
                                            const PyramidArguments* pyramid) {
  const SeparableCost geo(d, shape_of(d, shape_n), shape_of(d, shape_m), costs);
  if (pyramid)
    solve_in_types(*args, geo, [&](auto, auto measures) {
      using M = decltype(measures);
      return [&] {
        return PyramidStart<M>{std::make_unique<Pyramid<M>>(*pyramid, geo, d), args->epsilon};
      };
    });
  else
    solve_in_types(*args, geo, [&](auto type, auto) {
      return [&] { return GivenStart<decltype(type)>{*args, geo}; };
    });
}
