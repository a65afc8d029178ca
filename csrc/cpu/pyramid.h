// The multiscale start: coarser problems are solved from the coarsest on, each from the
// c-transform of the one before, and the last is evaluated on the grid.
#pragma once

#include <array>
#include <deque>

#include "../level_epsilon.h"
#include "gaussian.h"
#include "log_sum_exp.h"
#include "separable_log.h"
#include "sinkhorn.h"

// Levels run from the finest to the coarsest. matrices holds, level by level and axis by axis, the
// costs (n_k, m_k) of the level, its prolongations (m_k of the next finer level, n_k), its pools of
// the source (n_k, n_k of the next finer level) and of the target; then the coordinates of source
// and target on the coarsest level, which is the grid itself where there are no levels.
struct PyramidArguments {
  int64_t levels;
  const int64_t* shapes;  // (levels, 2, d): source and target
  const double* matrices;
  const LevelEpsilon* epsilon;
  const double* work;  // of one iteration, in iterations on the grid
  double tol;
  int64_t max_iter;
  int64_t gaussian;  // start of the coarsest level; else zeros
};

namespace {

// Sums over blocks of pixels, axis by axis. A row of a pooling matrix is a short run of nonzeros,
// which the leading axes add up; the last axis takes the matrix as it is.
template <class T>
class Pooling {
 public:
  Pooling(const Shape& fine, const Shape& coarse, int d, const double* const* pools)
      : fine_(fine), coarse_(coarse), last_(fine[2] * stride<T>(coarse)) {
    static const double one = 1;
    const double* pool[3];
    for (int k = 0; k < 3; ++k) pool[k] = k < 3 - d ? &one : pools[k - 3 + d];
    for (int k = 0; k < 2; ++k)
      for (int64_t r = 0; r < coarse[k]; ++r) {
        const double* row = pool[k] + r * fine[k];
        int64_t from = 0, to = fine[k];
        while (from < to - 1 && row[from] == 0) ++from;
        while (to > from + 1 && row[to - 1] == 0) --to;
        runs_[k].push_back({from, {row + from, row + to}});
      }
    transpose(coarse[2], fine[2], pool[2], fine[2], last_.data(), stride<T>(coarse));
    between_[0].resize(fine[1] * stride<T>(fine));
    between_[1].resize(coarse[0] * coarse[1] * stride<T>(fine));
  }

  void operator()(const T* x, T* out) {
    const int64_t ld = stride<T>(fine_), ld_to = stride<T>(coarse_);
    const int64_t plane = fine_[1] * ld;
    T *first = between_[0].data(), *middle = between_[1].data();
    for (const Run& run : runs_[0]) {
      add(run, plane, x, first);
      for (const Run& inner : runs_[1]) {
        add(inner, ld, first, middle);
        middle += ld;
      }
    }
    gemm(0, coarse_.lines(), ld_to, fine_[2], between_[1].data(), ld, last_.data(), ld_to, out,
         ld_to);
  }

 private:
  struct Run {
    int64_t from;
    std::vector<T> weight;
  };
  static void add(const Run& run, int64_t length, const T* x, T* out) {
    x += run.from * length;
    for (int64_t j = 0; j < length; j += W<T>) {
      Vec<T> sum{};
      for (size_t q = 0; q < run.weight.size(); ++q)
        sum += run.weight[q] * load(x + q * length + j);
      store(out + j, sum);
    }
  }

  Shape fine_, coarse_;
  std::vector<Run> runs_[2];
  Array<T> last_, between_[2];
};

// One level of one team, with masses in the precision of T.
template <class T>
struct Level {
  SeparableCost geo, prolongation;
  Pooling<T> pool_source, pool_target;
  LevelEpsilon epsilon;
  double work;
  Workspace space;
  Solver<SeparableCost> solve;
  GibbsProduct<SeparableCost, float> prolong_single;
  LogSumExp<SeparableCost> prolong;

  Level(SeparableCost own, SeparableCost to_finer, Pooling<T> source, Pooling<T> target,
        LevelEpsilon own_epsilon, double share)
      : geo(own), prolongation(to_finer), pool_source(std::move(source)),
        pool_target(std::move(target)), epsilon(own_epsilon), work(share), space(geo), solve(geo),
        prolong_single(prolongation), prolong(prolongation) {}
  Level(const Level&) = delete;  // its members refer to each other
};

template <class T>
class Pyramid {
 public:
  Pyramid(const PyramidArguments& args, const SeparableCost& grid, int d)
      : grid_(grid), gaussian_(args.gaussian) {
    const bool single = std::is_same_v<T, float>;
    options_ = {args.tol, kMarginalNoCost, int(args.max_iter), 0.0, single};
    const double* next = args.matrices;
    // The next matrices of the list, one per axis.
    const auto take = [&](const Shape& rows, const Shape& columns) {
      std::array<const double*, 3> found{};
      for (int k = 0; k < d; ++k) {
        found[k] = next;
        next += rows[3 - d + k] * columns[3 - d + k];
      }
      return found;
    };
    Shape fine_n = grid.n, fine_m = grid.m;
    for (int64_t l = 0; l < args.levels; ++l) {
      const int64_t *sn = args.shapes + 2 * l * d, *sm = sn + d;
      const Shape n = shape_of(d, sn), m = shape_of(d, sm);
      const auto costs = take(n, m), prolongations = take(fine_m, n);
      const auto pools_source = take(n, fine_n), pools_target = take(m, fine_m);
      level_.emplace_back(SeparableCost(d, n, m, costs.data()),
                          SeparableCost(d, fine_m, n, prolongations.data()),
                          Pooling<T>(fine_n, n, d, pools_source.data()),
                          Pooling<T>(fine_m, m, d, pools_target.data()), args.epsilon[l],
                          args.work[l]);
      fine_n = n;
      fine_m = m;
    }
    for (const Shape* s : {&fine_n, &fine_m})
      for (int k = 0; k < 3; ++k) {
        static const double zero = 0;
        (s == &fine_n ? x_ : y_)[k] = k < 3 - d ? &zero : next;
        if (k >= 3 - d) next += (*s)[k];
      }
    h_.resize(size<double>(grid.n));
  }

  // From the masses in p, its start: potentials in nats of epsilon, or scalings. Returns the
  // arithmetic of the coarse solves, in iterations on the grid.
  double start(Team& team, Workspace& p, double epsilon, State& state) {
    team.once([&] {
      pool(p);
      gaussian(p, epsilon);
      work_ = 0;
      domain_ = Domain::kPotentials;
    });
    for (size_t l = level_.size(); l-- > 0;) {
      Level<T>& level = level_[l];
      Workspace& finer = l ? level_[l - 1].space : p;
      const double own = epsilon_of(level.epsilon, epsilon);
      const double between = epsilon_between(level.epsilon, epsilon);
      const double next = l ? epsilon_of(level_[l - 1].epsilon, epsilon) : epsilon;
      team.call(level.geo.work > kTogetherAbove, [&](Team& crew) {
        State at;
        at.domain = domain_;
        const Control done = level.solve(crew, level.space, own, options_, at);
        const Geometry& finer_geo = l ? level_[l - 1].geo : grid_;
        const Domain domain =
            to_finer(crew, level, at, own / between, between, next, finer_geo, finer);
        crew.once([&] {
          domain_ = domain;
          work_ += (done.k + 0.5) * level.work;
        });
      });
    }
    state.domain = domain_;
    return work_;
  }

 private:
  void pool(Workspace& p) {
    Team alone;
    const Measures<T>* finer = &p.measures<T>(alone);
    for (Level<T>& level : level_) {
      Measures<T>& own = level.space.template fresh<T>();
      level.pool_source(finer->a.data(), own.a.data());
      level.pool_target(finer->b.data(), own.b.data());
      finer = &own;
    }
  }
  // The start of the coarsest level, in nats.
  void gaussian(Workspace& p, double epsilon) {
    const bool single_level = level_.empty();
    Workspace& top = single_level ? p : level_.back().space;
    const Geometry& geo = single_level ? grid_ : level_.back().geo;
    if (!gaussian_) return std::fill(top.g.begin(), top.g.end(), 0.0);
    if (!single_level) epsilon = epsilon_of(level_.back().epsilon, epsilon);
    Team alone;
    const auto& [a, b] = top.measures<double>(alone);
    gaussian_potential(a.data(), geo.n, x_, b.data(), geo.m, y_, epsilon, top.g.data());
    for (double& g : top.g) g *= 1.0 / epsilon;
  }
  // The c-transform of a level's f at the points of the next finer one, where `between` is epsilon:
  // u^power are the scalings of f there. The result, for an epsilon of `next`, stays a scaling
  // where the sums are in range and no power raises them out of it.
  Domain to_finer(Team& team, Level<T>& level, State& at, double power, double between,
                  double next, const Geometry& geo, Workspace& finer) {
    const double rise = between / next;
    Domain domain = Domain::kPotentials;
    const auto product = [&](auto& prolong) {
      using R = typename std::remove_reference_t<decltype(prolong)>::Real;
      Scalings<R>& out = finer.scalings<R>();
      team.once([&] { out.reserve(geo); });
      Scalings<R>& own = level.space.template scalings<R>();
      const R* au = at.au(own);
      if (power != 1.0) {
        const Array<R>& a = level.space.template measures<R>(team).a;
        const R* u = at.u(own);
        const auto [first, last] = team.share(size<R>(level.geo.n), W<R>);
        for (int64_t i = first; i < last; i += W<R>)
          store(&own.S[i], load(&a[i]) * vexp(vlog(load(u + i)) * R(power)));
        team.barrier();
        au = own.S.data();
      }
      if (!prolong(team, au, between, out.Z.data())) return false;
      if (rise > 1.0 || sizeof(R) > sizeof(T)) {  // the finer level may fit single precision again
        logarithm(team, geo.m, out.Z.data(), -rise, 0.0, finer.g.data());
        return true;
      }
      const auto [from, end] = team.share(size<R>(geo.m), W<R>);
      for (int64_t i = from; i < end; i += W<R>) {
        const Vec<R> z = load(&out.Z[i]);
        store(&out.v[i], rise == 1.0 ? reciprocal(z) : vexp(vlog(z) * R(-rise)));
      }
      team.barrier();
      State fresh;
      enter_scalings<R>(team, geo, finer, fresh);
      domain = fresh.domain;
      return true;
    };
    if (at.domain == Domain::kSingle && product(level.prolong_single)) return domain;
    if (at.domain == Domain::kDouble && product(level.prolong.product())) return domain;
    to_potentials(team, level.geo, level.space, at);
    const Buffer& a = level.space.template measures<double>(team).a;
    const auto [first, last] = team.share(size<double>(level.geo.n), W<double>);
    for (int64_t i = first; i < last; i += W<double>)
      store(&h_[i], vlog(load(&a[i])) + load(&level.space.f[i]) * power);
    team.barrier();
    level.prolong(team, h_.data(), between, finer.g.data());
    const auto [from, end] = team.share(size<double>(geo.m), W<double>);
    for (int64_t i = from; i < end; i += W<double>)
      store(&finer.g[i], load(&finer.g[i]) * -rise);
    team.barrier();
    return domain;
  }

  const SeparableCost& grid_;
  std::deque<Level<T>> level_;
  Options options_;
  bool gaussian_;
  const double *x_[3], *y_[3];
  Buffer h_;
  double work_ = 0;
  Domain domain_ = Domain::kPotentials;  // of what the last level left to the next
};

}  // namespace
