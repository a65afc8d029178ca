// When a solve stops and how far it overrelaxes, for every processor alike.
#pragma once

#include <cmath>

#include "portable.h"

namespace {

enum Criterion { kMarginal = 0, kCost = 1, kMarginalNoCost = 2 };

// Of a solve: nothing done yet, before the update of f, before that of g.
enum class Phase { kStart, kRow, kColumn, kDone };

struct Options {
  double tol;
  int criterion;
  int max_iter;
  double overrelaxation;  // 0: chosen per problem
  bool single;            // precision of the scaling domain, far from the solution
};

// Weight and stopping of one problem. The first iteration is plain: what a start errs by is often
// not what converges slowly, and past a good one overrelaxation would overshoot. Then the weight
// follows successive-overrelaxation theory: from the error's rate over four iterations comes the
// rate of the plain iteration, and from that the best weight. An error that grows fourfold over its
// best resets the weight to 1.
class Control {
 public:
  HOST_DEVICE Control(const Options& opt, double range)
      : opt_(opt), adaptive_(opt.overrelaxation == 0.0) {
    const double rate = range / (range + 25.0);
    opening_ = least(1.7, 2.0 / (1.0 + std::sqrt(1.0 - rate)));
    w = adaptive_ ? 1.0 : opt.overrelaxation;
  }
  double w;
  int k = 0;  // completed iterations
  double error = kInf, cost = 0, mass = 1;
  bool converged = false;

  HOST_DEVICE bool cost_every_iteration() const { return opt_.criterion == kCost; }
  HOST_DEVICE bool cost_at_the_end() const { return opt_.criterion == kMarginal; }

  // Whether an iteration with this outcome is the last.
  HOST_DEVICE bool ends(double new_error, double new_cost) const {
    return solved(new_error, new_cost) || k >= opt_.max_iter;
  }
  // Called once per completed iteration; true when it is the last.
  HOST_DEVICE bool observe(double new_error, double new_cost) {
    const bool last = ends(new_error, new_cost);
    converged = solved(new_error, new_cost);
    steady_ = steady(new_cost);
    error = new_error;
    cost = new_cost;
    if (adaptive_ && !converged) adapt();
    return last;
  }

 private:
  HOST_DEVICE bool solved(double new_error, double new_cost) const {
    if (opt_.criterion != kCost) return new_error < opt_.tol;
    return steady_ && steady(new_cost);  // twice: a cost that turns stands still once
  }
  HOST_DEVICE bool steady(double new_cost) const {
    return k > 1 && std::abs(new_cost - cost) < opt_.tol * std::abs(new_cost);
  }
  HOST_DEVICE void adapt() {
    if (k == 1) {
      w = opening_;
      return;
    }
    best_ = least(best_, error);
    if (w > 1.0 && error > 4.0 * best_) {
      cap_ = 1.0 + 0.8 * (w - 1.0);
      w = 1.0;
      best_ = error;
    }
    if (k % 4 != 2) return;
    if (k > 2) {
      const double rho = std::sqrt(std::sqrt(error / anchor_));
      if (rho <= 1.05 * (w - 1.0)) {
        w = 1.0 + 0.8 * (w - 1.0);  // past the optimum the error falls as (w - 1)^k
      } else if (rho < 0.9999) {  // an error that hardly falls says nothing of the rate
        const double r = most(rho, 1e-6);
        const double plain = least((r + w - 1.0) * (r + w - 1.0) / (r * w * w), 0.9999);
        w = 0.5 * (w + 2.0 / (1.0 + std::sqrt(1.0 - plain)));
      }
      w = least(w, cap_);
    }
    anchor_ = error;
  }

  Options opt_;
  bool adaptive_, steady_ = false;
  double opening_, cap_ = 1.95, best_ = kInf, anchor_ = kInf;
};

}  // namespace
