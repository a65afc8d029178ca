// The Sinkhorn solve of one level of one problem by the blocks of a group.
//
// Potentials are relative to the marginals: P(x, y) = a(x) b(y) exp((f(x) + g(y) - C(x, y)) / eps).
// A solve runs in the scaling domain (u = exp(f / eps), products on the tensor cores only), in tf32
// far from the solution and in float64, while every sum stays in range, and goes on in the log
// domain, from where it is, once one does not. Between domains and levels f and g lie in scratch.
#pragma once

#include "../control.h"
#include "arrays.h"

namespace {

enum class Domain { kPotentials, kScalings };  // of f and g: in nats, or exp of them

// Where a solve stands.
struct State {
  Phase next = Phase::kStart;
  Domain domain = Domain::kPotentials;
  bool narrow = false;  // the scalings are those of tf32
  double column_error = 0;
};

// The same as Relaxation of the CPU, for one number; s is old / new = old * S.
template <class T>
DEVICE T relaxed(T S, T s, T p, T q) {
  if constexpr (std::is_same_v<T, float>)
    return (p + q * s) * reciprocal(q + p * s) * reciprocal(S);
  else
    return (p + q * s) * reciprocal(S * (q + p * s));
}

// Rounding to tf32 shows in the marginal error below this; short of it, an error that hardly falls
// may be rounding already.
DEVICE inline bool too_fine_for_tf32(double error, double previous) {
  return error < 3e-4 || (error < 1e-2 && error > 0.95 * previous);
}

// Product multiplies with exp(-C / epsilon), times exp(shift): put() writes an entry of its
// operand, and a call leaves S in sums().
template <class T, class Product>
class ScalingSolve {
 public:
  DEVICE ScalingSolve(const Level& level, const Space<T>& space, int& parity)
      : level_(level), space_(space), parity_(parity), product_(level, space) {}
  ScalingSolve(const Level&, const Space<T>&&, int&) = delete;  // it would not last

  // From f and g of the level until the solve is done, a sum leaves the range or tf32 has done its
  // part; the scalings are then in this object's arrays. False, with nothing changed, where f and g
  // are out of range to begin with. `judges`: whether the solve may end here.
  DEVICE NOINLINE bool operator()(Control& control, State& state, bool judges) {
    level_.group.barrier();  // other blocks may still be on what they did alone
    const double middle = start_shift(state);
    if (!(middle < kInf)) return false;
    shift_ = product_.build();
    load(state, middle);
    if constexpr (std::is_same_v<T, float>)
      if (state.next == Phase::kStart) centre();
    block_barrier();
    iterate(control, state, judges);
    return true;
  }

  // The operand a u^power, for a caller that is done with iterations.
  DEVICE void enter_source(double power) {
    put_operand(level_.n, space_.a, [&](int at) {
      return power == 1.0 ? space_.u[at] : T(exp(power * log(double(space_.u[at]))));
    });
  }
  // The scalings, in float64, to f and g of the level.
  DEVICE void store(State& state) {
    if (state.next != Phase::kStart) {
      const double scale = exp(shift_);
      each(level_.n, [&](int i, int j) {
        level_.f[level_.n.in_grid(i, j)] = double(space_.u[i * level_.n.ld<T>() + j]) * scale;
      });
    }
    each(level_.m, [&](int i, int j) {
      level_.g[level_.m.in_grid(i, j)] = double(space_.v[i * level_.m.ld<T>() + j]);
    });
    state.domain = Domain::kScalings;
    block_barrier();
  }

 private:
  // What to subtract from g so that exp is in range; infinite where there is nothing.
  DEVICE double start_shift(const State& state) {
    if (state.domain == Domain::kScalings) return 0.0;
    double high = -kInf, low = kInf;
    each(level_.m, [&](int i, int j) {
      const double g = level_.g[level_.m.in_grid(i, j)];
      high = most(high, g);
      low = least(low, g);
    });
    high = level_.group.largest(high, parity_);
    low = -level_.group.largest(-low, parity_);
    return high - low < Range<T>::spread ? 0.5 * (high + low) : kInf;
  }
  DEVICE void load(const State& state, double middle) {
    const Side &n = level_.n, &m = level_.m;
    zero_fill(n, space_.a);
    zero_fill(m, space_.b);
    block_barrier();
    each(n, [&](int i, int j) {
      const int at = i * n.ld<T>() + j, from = n.in_grid(i, j);
      space_.a[at] = T(level_.source_mass(from));
      if (state.next != Phase::kStart) space_.u[at] = T(level_.f[from]);
    });
    each(m, [&](int i, int j) {
      const int at = i * m.ld<T>() + j, from = m.in_grid(i, j);
      const double g = level_.g[from];
      space_.b[at] = T(level_.target_mass(from));
      space_.v[at] = T(state.domain == Domain::kScalings ? g : exp(g - middle));
    });
  }
  // Scales v so that the sums of both sides have their logarithms around half of the shift.
  DEVICE void centre() {
    double high = -kInf, low = kInf;
    const Side& m = level_.m;
    each(m, [&](int i, int j) {
      const double v = double(space_.v[i * m.ld<T>() + j]);
      high = most(high, v);
      low = least(low, v);
    });
    high = level_.group.largest(high, parity_);
    low = -level_.group.largest(-low, parity_);
    const T factor = T(exp(-0.5 * (shift_ + log(low) + log(high))));
    each(m, [&](int i, int j) { space_.v[i * m.ld<T>() + j] *= factor; });
  }

  // The operand mass * scaling.
  DEVICE NOINLINE void enter(const Side& s, const T* mass, const T* scaling) {
    put_operand(s, mass, [&](int at) { return scaling[at]; });
  }
  template <class Scaling>
  DEVICE void put_operand(const Side& s, const T* mass, Scaling scaling) {
    product_.clear(s);
    product_.barrier_after_put();
    each(s, [&](int i, int j) {
      const int at = i * s.ld<T>() + j;
      product_.put(s, i, j, mass[at] * scaling(at));
    });
    product_.barrier_after_put();
  }

  struct Sums {
    double error, mass, after;
    bool in_range;
  };
  // S of the target's operand or of the source's; sums over it, with what is left from the last
  // update. old is null where there is no scaling yet.
  DEVICE NOINLINE Sums product_and_sums(bool forward, const T* mass, const T* old) {
    const Parts<T> own = product_(forward, mass, old);
    T parts[kSums] = {own.error, own.mass, after_, own.outside};
    double total[kSums];
    level_.group.sum(parts, parity_, total);
    after_ = 0;
    return {total[0], total[1], total[2], total[3] == 0};
  }
  // The scaling of a side from S, and from that the next operand.
  DEVICE NOINLINE void update(const Side& s, const T* mass, T* scaling, bool first, double w) {
    const T p = T(w), q = T(2.0 - w), most_ratio = T(1e20);
    const bool plain = first || w == 1.0;
    const T* const sums = product_.sums();
    if (Product::kOperandStays && !level_.one_shape()) {  // the other side's may reach further
      product_.clear(s);
      product_.barrier_after_put();
    }
    each(s, [&](int i, int j) {
      const int at = i * s.ld<T>() + j;
      const T S = sums[at], product = first ? T(1) : scaling[at] * S;
      const T next = plain || mass[at] == 0
                         ? reciprocal(S)
                         : relaxed(S, product < most_ratio ? product : most_ratio, p, q);
      if (!plain) {
        const T ratio = next * S;
        after_ += mass[at] * (ratio > 1 ? ratio - 1 : 1 - ratio);
      }
      scaling[at] = next;
      product_.put(s, i, j, mass[at] * next);
    });
    product_.barrier_after_put();
  }

  DEVICE void iterate(Control& control, State& state, bool judges) {
    const Side &n = level_.n, &m = level_.m;
    after_ = 0;
    // The column error that tf32 found is its own: either it is taken again, or the first row goes
    // unjudged.
    bool unjudged = !std::is_same_v<T, float> && state.narrow && state.next == Phase::kRow;
    if (unjudged && control.ends(kInf, 0)) {
      enter(n, space_.a, space_.u);
      state.column_error = product_and_sums(false, space_.b, space_.v).error;
      unjudged = false;
    }
    state.narrow = std::is_same_v<T, float>;
    if (state.next == Phase::kColumn) {
      enter(n, space_.a, space_.u);
      if (!update_g(control, state)) return;
    } else {
      enter(m, space_.b, space_.v);
    }
    for (;;) {
      const bool started = state.next == Phase::kRow;
      const Sums row = product_and_sums(true, space_.a, started ? space_.u : nullptr);
      state.column_error += row.after;
      if (!row.in_range) return;
      if (started && !unjudged) {
        const double error = row.error + state.column_error;
        if (std::is_same_v<T, float> &&
            (judges ? !control.ends(error, 0) && too_fine_for_tf32(error, control.error)
                    : control.ends(error, 0) || too_fine_for_tf32(error, control.error)))
          return;
        control.mass = row.mass;
        const bool each_time = control.cost_every_iteration();
        if (each_time) complete_source();
        const double cost = each_time ? transport_cost() : 0.0;
        if (control.observe(error, cost)) {
          if (!each_time) complete_source();
          if (control.cost_at_the_end()) control.cost = transport_cost();
          state.next = Phase::kDone;
          return;
        }
        // The cost took kernel and operand for itself.
        if (each_time) {
          product_.build();
          enter(m, space_.b, space_.v);
          product_and_sums(true, space_.a, nullptr);
        }
      }
      unjudged = false;
      update(n, space_.a, space_.u, !started, control.w);
      after_ = 0;
      state.next = Phase::kColumn;
      if (!update_g(control, state)) return;
    }
  }
  DEVICE bool update_g(Control& control, State& state) {
    if (!product_and_sums(false, space_.b, nullptr).in_range) return false;
    update(level_.m, space_.b, space_.v, false, control.w);
    state.next = Phase::kRow;
    state.column_error = 0;  // to come with the sums of the row
    ++control.k;
    return true;
  }

  // Where there is no mass, no update of the other side sees a scaling, and none may have followed
  // it: the half-step from where the other side is now, as `update` takes it there.
  DEVICE NOINLINE void complete_source() {
    const T* const sums = product_.sums();
    each(level_.n, [&](int i, int j) {
      const int at = i * level_.n.ld<T>() + j;
      if (space_.a[at] == 0) space_.u[at] = reciprocal(sums[at]);
    });
  }
  // <C, P> right after a product forward; leaves kernel and operand in disorder.
  DEVICE NOINLINE double transport_cost() {
    const T own = product_.cost([this] { enter(level_.m, space_.b, space_.v); });
    return level_.group.sum(own, parity_);
  }

  const Level& level_;
  const Space<T>& space_;
  int& parity_;
  Product product_;
  double shift_ = 0;
  T after_ = 0;  // this thread's part of the error that the last update left
};

}  // namespace
