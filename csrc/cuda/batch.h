// A batch of problems on one geometry: pyramid, solve and results of a problem in one place.
#pragma once

#include "lines.h"
#include "log_domain.h"
#include "separable.h"
#include "separable_log.h"
#include "start.h"

namespace {

struct SeparableCost {
  template <class T>
  using Product = SeparableProduct<T>;
  using Log = SeparableLog;
  static constexpr bool kLevels = true;
};
struct LineCost {
  template <class T>
  using Product = LineProduct<T>;
  using Log = LineLog;
  static constexpr bool kLevels = false;
};

// What every thread of a block shares beside the arrays.
struct Shared {
  Slots slots;
  Facts cost[kMostLevels + 1], prolongation[kMostLevels + 1];
  int problem;
};
constexpr int64_t kSharedBytes = (sizeof(Shared) + 127) / 128 * 128;

// Cost::Product<T> and Cost::Log are those of ScalingSolve and LogSolve; kLevels says whether there
// can be coarser levels.
template <class Cost>
class BatchSolver {
 public:
  DEVICE BatchSolver(const Arguments& args, Shared& shared)
      : args_(args), shared_(shared), alone_(shared.slots, true),
        scratch_(args.scratch +
                 (cluster_index() * cluster_size() + cluster_rank()) * args.scratch_per_block),
        scratch_of_first_(args.scratch +
                          cluster_index() * cluster_size() * args.scratch_per_block) {}

  DEVICE void run() {
    find_facts();
    const Group all(shared_.slots, false);
    for (int64_t problem = cluster_index(); problem < args_.batch;) {
      solve(problem);
      if (args_.batch <= clusters()) break;
      if (all.rank() == 0 && thread() == 0) {
        const int next = clusters() + fetch_add(args_.next_problem);
        for (int r = 0; r < all.size(); ++r) *all.of(r, &shared_.problem) = next;
      }
      all.barrier();
      problem = shared_.problem;
      all.barrier();
    }
    all.barrier();  // no block leaves while another may still write into it
  }

 private:
  DEVICE NOINLINE void find_facts() {
    if constexpr (!Cost::kLevels) {
      const LineArguments& lines = args_.lines;
      double top = 0;
      for (int i = thread(); i < lines.classes * lines.length; i += threads())
        top = most(top, lines.table[i]);
      top = alone_.largest(top, parity_);
      if (thread() == 0) shared_.cost[0] = {{top, 0.0}, {false, false}};
      block_barrier();
      return;
    }
    // Each warp looks through some of the matrices.
    const int count = 4 * args_.levels + 2;
    for (int q = warp(); q < count; q += warps()) {
      const int l = q / 4, k = q % 2;
      const LevelArguments& level = args_.level[l];
      const bool prolongs = q % 4 > 1;
      // The finest prolongation belongs to level 1.
      const LevelArguments& from = args_.level[prolongs ? l + 1 : l];
      const double* cost = prolongs ? from.prolongation[k] : from.cost[k];
      const int rows = prolongs ? level.m[k] : from.n[k];
      const int columns = prolongs ? from.n[k] : from.m[k];
      double top = 0, differing = rows != columns;
      for (int i = lane(); cost && i < rows * columns; i += kWarp) {
        top = most(top, cost[i]);
        if (rows == columns) differing += cost[i] != cost[i % columns * columns + i / columns];
      }
      top = warp_largest(top);
      differing = warp_sum(differing);
      Facts& facts = prolongs ? shared_.prolongation[l + 1] : shared_.cost[l];
      if (lane() == 0) {
        facts.largest[k] = top;
        facts.symmetric[k] = differing == 0;
      }
    }
    block_barrier();
  }

  // Masses of a level's source or target, as Level reads them.
  DEVICE double* pooled_masses(int level, bool target) const {
    auto* at = reinterpret_cast<double*>(scratch_ + args_.scratch_masses);
    for (int l = 1; l < level; ++l)
      at += args_.level[l].n[0] * args_.level[l].n[1] + args_.level[l].m[0] * args_.level[l].m[1];
    return at + (target ? args_.level[level].n[0] * args_.level[level].n[1] : 0);
  }
  DEVICE const void* masses(int64_t problem, int level, bool target) const {
    if (level > 0) return pooled_masses(level, target);
    const int* n = target ? args_.level[0].m : args_.level[0].n;
    const int64_t at = problem * n[0] * n[1] * (args_.single ? 4 : 8);
    return static_cast<const char*>(target ? args_.b : args_.a) + at;
  }
  // Masses that were rounded to single precision do not sum to 1 exactly, and two marginals of
  // unequal totals would keep a solve from converging.
  DEVICE NOINLINE double scale_to_one(const void* x, const int* n) {
    if (!args_.single) return 1.0;
    double sum = 0;
    for (int i = thread(); i < n[0] * n[1]; i += threads()) sum += number(x, true, i);
    return 1.0 / alone_.sum(sum, parity_);
  }

  DEVICE NOINLINE void pool(int64_t problem) {
    for (int l = 1; l <= args_.levels; ++l) {
      const LevelArguments &fine = args_.level[l - 1], &coarse = args_.level[l];
      for (const bool target : {false, true}) {
        const int* from = target ? fine.m : fine.n;
        const int* to = target ? coarse.m : coarse.n;
        const void* finer = masses(problem, l - 1, target);
        const bool single = l == 1 && args_.single;
        const double scale = l > 1 ? 1.0 : target ? scale_b_ : scale_a_;
        double* out = pooled_masses(l, target);
        for (int i = thread(); i < to[0] * to[1]; i += threads())
          out[i] = scale * pooled(from, to, target ? coarse.pool_m : coarse.pool_n, i / to[1],
                                  i % to[1], [&](int cell) { return number(finer, single, cell); });
      }
      block_barrier();
    }
  }

  // g of the coarsest level, or of the grid, in nats.
  DEVICE NOINLINE void start(int64_t problem, double epsilon, double* g) {
    const LevelArguments& top = args_.level[args_.levels];
    const int count = top.m[0] * top.m[1];
    if (args_.start == 0) {
      const int size = args_.single ? 4 : 8;
      const void* given = static_cast<const char*>(args_.g) + problem * count * size;
      for (int i = thread(); i < count; i += threads())
        g[i] = number(given, args_.single, i) / epsilon;
    } else if (args_.start == 1) {
      for (int i = thread(); i < count; i += threads()) g[i] = 0;
    } else {
      const bool single = args_.levels == 0 && args_.single;
      const void* a = masses(problem, args_.levels, false);
      const void* b = masses(problem, args_.levels, true);
      const double sa = args_.levels ? 1.0 : scale_a_, sb = args_.levels ? 1.0 : scale_b_;
      const Moments ma = moments(alone_, parity_, top.n, args_.x,
                                 [&](int i) { return sa * number(a, single, i); });
      const Moments mb = moments(alone_, parity_, top.m, args_.y,
                                 [&](int i) { return sb * number(b, single, i); });
      const GaussianPotential potential(ma, mb, epsilon);
      for (int i = thread(); i < count; i += threads()) {
        const double x = args_.y[0] ? args_.y[0][i / top.m[1]] : 0.0, y = args_.y[1][i % top.m[1]];
        g[i] = potential(x, y) / epsilon;
      }
    }
    block_barrier();
  }

  DEVICE Group group_of(int level) const { return Group(shared_.slots, level > args_.together); }
  DEVICE double epsilon_at(int level, double epsilon) const {
    return epsilon_of(args_.level[level].epsilon, epsilon);
  }
  template <class T>
  DEVICE Space<T> space() const {
    char* arrays = reinterpret_cast<char*>(&shared_) + kSharedBytes;
    return Space<T>(args_.room[std::is_same_v<T, double>], arrays, scratch_);
  }

  DEVICE NOINLINE void solve(int64_t problem) {
    const double epsilon = args_.epsilon[problem];
    scale_a_ = scale_to_one(masses(problem, 0, false), args_.level[0].n);
    scale_b_ = scale_to_one(masses(problem, 0, true), args_.level[0].m);
    pool(problem);
    double* f = reinterpret_cast<double*>(scratch_ + args_.scratch_f);
    double* g = reinterpret_cast<double*>(scratch_ + args_.scratch_g);
    start(problem, epsilon_at(args_.levels, epsilon), g);
    State state;
    double work = 0;
    for (int l = args_.levels; l >= 0; --l) {
      const Group group = group_of(l);
      const LevelArguments& own = args_.level[l];
      const Level level{own,
                        args_.lines,
                        shared_.cost[l],
                        group,
                        Side(own.n, group),
                        Side(own.m, group),
                        masses(problem, l, false),
                        masses(problem, l, true),
                        l == 0 && args_.single,
                        l ? 1.0 : scale_a_,
                        l ? 1.0 : scale_b_,
                        epsilon_at(l, epsilon),
                        f,
                        g};
      const Options options =
          l ? Options{args_.level_tol, kMarginalNoCost, args_.level_max_iter, 0.0, false}
            : Options{args_.tol, args_.criterion, args_.max_iter, args_.overrelaxation, false};
      Control control(options, level.facts.total() / level.epsilon);
      Steps steps{};
      if (l) {
        const double between = epsilon_between(own.epsilon, epsilon);
        steps = {between, level.epsilon / between, between / epsilon_at(l - 1, epsilon)};
      }
      solve_level(level, l, steps, control, state);
      if (l)
        work += (control.k + 0.5) * own.work;
      else
        finish(problem, level, control, state, work);
    }
  }

  template <class T>
  using Scaling = ScalingSolve<T, typename Cost::template Product<T>>;
  using InLogs = LogSolve<typename Cost::Log>;

  // From a level to the next finer one: epsilon of the prolongation, the power that takes the
  // level's scalings there, and the one that takes the inverse sums from there.
  struct Steps {
    double between, power, rise;
  };
  // The level, and from it the start of the next finer one.
  DEVICE void solve_level(const Level& level, int l, const Steps& steps, Control& control,
                          State& state) {
    if (args_.precision != kDouble && fits<float>(level.facts, level.epsilon) &&
        (state.domain == Domain::kPotentials || state.narrow) &&
        in_scalings<float>(level, l, steps, control, state, l > 0))
      return;
    if (state.next != Phase::kDone && fits<double>(level.facts, level.epsilon) &&
        in_scalings<double>(level, l, steps, control, state, true))
      return;
    if (state.next == Phase::kDone && l == 0) return;
    to_nats(level, state);
    const Space<double> arrays = space<double>();
    InLogs solve(level, arrays, mean(level.group), parity_);
    if (state.next != Phase::kDone) solve(control, state);
    if constexpr (Cost::kLevels)
      if (l) prolong_potentials(level, l, steps, solve, state);
  }
  DEVICE double* mean(const Group& group) const {
    char* scratch = group.size() == 1 ? scratch_ : scratch_of_first_;
    return reinterpret_cast<double*>(scratch + args_.scratch_mean);
  }

  // True when the level is done and the finer one has its start.
  template <class T>
  DEVICE NOINLINE bool in_scalings(const Level& level, int l, const Steps& steps,
                                   Control& control, State& state, bool judges) {
    const Space<T> arrays = space<T>();
    Scaling<T> solve(level, arrays, parity_);
    if (!solve(control, state, judges)) return false;
    if constexpr (Cost::kLevels)
      if (l && state.next == Phase::kDone &&
          prolong_scalings(level, l, steps, arrays, solve, state))
        return true;
    solve.store(state);
    return false;
  }
  DEVICE NOINLINE void to_nats(const Level& level, State& state) {
    if (state.domain == Domain::kPotentials) return;
    const auto take_log = [](double* x, int i) { x[i] = log(x[i]); };
    if (state.next != Phase::kStart)
      each(level.n, [&](int i, int j) { take_log(level.f, level.n.in_grid(i, j)); });
    each(level.m, [&](int i, int j) { take_log(level.g, level.m.in_grid(i, j)); });
    state.domain = Domain::kPotentials;
    state.narrow = false;
    block_barrier();
  }

  // The c-transform of a level's f at the points of the next finer one. It stays a scaling where no
  // power can take it out of range. False, with nothing changed, where the sums leave the range.
  template <class T>
  DEVICE NOINLINE bool prolong_scalings(const Level& level, int l, const Steps& steps,
                                        const Space<T>& arrays, Scaling<T>& solve, State& state) {
    const Facts& facts = shared_.prolongation[l];
    if (!fits<T>(facts, steps.between)) return false;
    const LevelArguments& finer = args_.level[l - 1];
    const Group group = group_of(l - 1);
    const Side to(finer.m, group);
    solve.enter_source(steps.power);
    GibbsKernel<T> kernel(arrays, level.args.prolongation, finer.m, level.args.n, facts);
    const double shift = kernel.build(steps.between);
    block_barrier();
    last_axis(level.group, arrays, level.n, kernel.forward(1, 0), to.padded1());
    level.group.barrier();
    const T* const none = nullptr;
    const T outside =
        first_axis(arrays, kernel.forward(0, to.first), level.n.n0, to, shift, none, none).outside;
    group.barrier();
    if (group.sum(outside, parity_) > 0) return false;
    // A finer level may fit tf32 again.
    const bool narrow = std::is_same_v<T, float>;
    const bool stays = steps.rise <= 1.0 && (narrow || args_.precision == kDouble);
    each(to, [&](int i, int j) {
      const double g = -log(double(arrays.x[i * to.ld<T>() + j])) * steps.rise;
      level.g[to.in_grid(i, j)] = stays ? exp(g) : g;
    });
    state = State();
    state.domain = stays ? Domain::kScalings : Domain::kPotentials;
    state.narrow = stays && narrow;
    block_barrier();
    return true;
  }
  DEVICE NOINLINE void prolong_potentials(const Level& level, int l, const Steps& steps,
                                          InLogs& solve, State& state) {
    const Space<double> arrays = space<double>();
    const LevelArguments& finer = args_.level[l - 1];
    const Side to(finer.m, group_of(l - 1));
    solve.enter_source(steps.power);
    const double* const* cost = level.args.prolongation;
    const Entries c0{cost[0], level.args.n[0], 1}, c1{cost[1], level.args.n[1], 1};
    SeparableLog(level, arrays, nullptr, steps.between)
        .apply<false>(level.n, to, c0, c1, [&](int i, int j, double sum, double) {
          level.g[to.in_grid(i, j)] = -sum * steps.rise;
        });
    state = State();
  }

  // Potentials in units of cost with <g, b> = 0, and what is known of the problem.
  DEVICE NOINLINE void finish(int64_t problem, const Level& level, const Control& control,
                              State& state, double work) {
    const bool in_log_domain = state.domain == Domain::kPotentials;
    to_nats(level, state);
    const Side &n = level.n, &m = level.m;
    double parts[kSums] = {}, total[kSums];
    each(n, [&](int i, int j) {
      const int at = n.in_grid(i, j);
      parts[0] += level.source_mass(at) * level.f[at];
    });
    each(m, [&](int i, int j) {
      const int at = m.in_grid(i, j);
      parts[1] += level.target_mass(at) * level.g[at];
    });
    level.group.sum(parts, parity_, total);
    const double fa = total[0], gb = total[1];
    const auto put = [&](void* out, int64_t at, double value) {
      set_number(out, args_.single, at, value);
    };
    each(n, [&](int i, int j) {
      const int at = n.in_grid(i, j);
      put(args_.f, problem * n.n0 * n.n1 + at, (level.f[at] + gb) * level.epsilon);
    });
    each(m, [&](int i, int j) {
      const int at = m.in_grid(i, j);
      put(args_.g, problem * m.n0 * m.n1 + at, (level.g[at] - gb) * level.epsilon);
    });
    if (level.group.rank() == 0 && thread() == 0) {
      put(args_.value, problem, level.epsilon * (fa + gb - (control.mass - 1.0)));
      put(args_.cost, problem, control.cost);
      put(args_.marginal_error, problem, control.error);
      args_.n_iters[problem] = control.k;
      args_.converged[problem] = control.converged;
      args_.log_domain[problem] = in_log_domain;
      args_.coarse_work[problem] = work;
    }
    block_barrier();
  }

  const Arguments& args_;
  Shared& shared_;
  Group alone_;
  char *scratch_, *scratch_of_first_;
  int parity_ = 0;
  double scale_a_ = 1, scale_b_ = 1;
};

}  // namespace
