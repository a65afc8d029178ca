// Costs that depend on the last axis only through a shift, as between two rows of pixels or two
// circles of latitude.
#pragma once

#include <vector>

#include "scaling.h"

namespace {

// A point is a row (all leading axes) and a position on the last axis, and
//   C((r, j), (q, l)) = table(class(r, q), j - step l):
// the cost between two rows is a Toeplitz matrix, which all pairs of rows of a class share.
struct LineCost : Geometry {
  int64_t classes, step, length;  // of a class: its shifts, from -step (m2 - 1) to n2 - 1
  const double* table;            // (classes, length)
  const int32_t* class_of;        // (rows of n, rows of m)

  // In one class, row to[k] of the product takes the rows in[first[k]], ..., in[first[k + 1] - 1].
  struct Rows {
    std::vector<int32_t> to, first, in;
  };
  std::vector<Rows> forward, backward;  // target to source, and back

  LineCost(const Shape& source, const Shape& target, int64_t count, int64_t shift_step,
           const double* costs, const int32_t* row_classes)
      : Geometry{source, target}, classes(count), step(shift_step),
        length(n[2] + step * (m[2] - 1)), table(costs), class_of(row_classes) {
    const int64_t rows = n.lines(), columns = m.lines();
    forward = group(rows, columns, [=](int64_t r, int64_t q) { return class_of[r * columns + q]; });
    backward = group(columns, rows, [=](int64_t q, int64_t r) { return class_of[r * columns + q]; });
    max_cost = max_factor_cost = *std::max_element(table, table + classes * length);
    for (const auto* side : {&forward, &backward})
      for (const Rows& c : *side) work += int64_t(c.to.size()) * n[2] * m[2];
  }

 private:
  template <class ClassOf>
  std::vector<Rows> group(int64_t to, int64_t in, ClassOf find) const {
    std::vector<Rows> found(classes);
    for (int64_t t = 0; t < to; ++t)
      for (int64_t i = 0; i < in; ++i) {
        Rows& c = found[find(t, i)];
        if (c.to.empty() || c.to.back() != t) {
          c.to.push_back(int32_t(t));
          c.first.push_back(int32_t(c.in.size()));
        }
        c.in.push_back(int32_t(i));
      }
    for (Rows& c : found) c.first.push_back(int32_t(c.in.size()));
    return found;
  }
};

// The shifts of every class, mapped, in both directions. The row of the Toeplitz matrix for
// position l of the factor is a window of them, which starts at origin - step l.
template <class T>
class LineTables {
 public:
  explicit LineTables(const LineCost& geo)
      : geo_(geo), ld_(padded<T>(geo.length + W<T>)), origin_forward_(geo.step * (geo.m[2] - 1)),
        origin_backward_(geo.n[2] - 1) {}

  // map takes a vector of costs; called by all members.
  template <class Map>
  void build(Team& team, Map map) {
    team.once([&] {
      for (Array<T>* x : {&forward_, &backward_}) x->resize(geo_.classes * ld_);
    });
    const auto [from, to] = team.share(geo_.classes);
    for (int64_t c = from; c < to; ++c) {
      const double* cost = geo_.table + c * geo_.length;
      T *out = &forward_[c * ld_], *reversed = &backward_[c * ld_];
      for (int64_t j = 0; j < geo_.length; j += W<double>)
        store_narrow(out + j, map(j + W<double> <= geo_.length
                                      ? load(cost + j)
                                      : load_some(cost + j, geo_.length - j)));
      std::reverse_copy(out, out + geo_.length, reversed);
      // A row of a product is padded beyond the last position.
      std::fill(out + geo_.length, out + ld_, out[geo_.length - 1]);
      std::fill(reversed + geo_.length, reversed + ld_, reversed[geo_.length - 1]);
    }
    team.barrier();
  }
  const T* forward(int64_t c) const { return &forward_[c * ld_ + origin_forward_]; }
  // Where step is 1.
  const T* backward(int64_t c) const { return &backward_[c * ld_ + origin_backward_]; }

 private:
  const LineCost& geo_;
  int64_t ld_, origin_forward_, origin_backward_;
  Array<T> forward_, backward_;
};

// Adds, class by class, the products of gathered rows with the Toeplitz matrix of the class. Each
// member has its columns of the result.
template <class T, class Table>
void multiply_lines(Team& team, const std::vector<LineCost::Rows>& classes, const Shape& in,
                    const Shape& to, int64_t step, Table table, const T* x, T* out) {
  static thread_local Array<T> gathered, product;
  const int64_t depth = in[2], ld_in = stride<T>(in), ld = stride<T>(to);
  const auto [from, end] = team.share(ld, NV * W<T>);
  const int64_t width = end - from;
  for (int64_t r = 0; width > 0 && r < to.lines(); ++r)
    std::fill(out + r * ld + from, out + r * ld + end, T(0));
  for (size_t c = 0; width > 0 && c < classes.size(); ++c) {
    const auto& [rows, first, sources] = classes[c];
    const int64_t count = int64_t(rows.size());
    if (int64_t(gathered.size()) < count * depth) gathered.resize(count * depth);
    if (int64_t(product.size()) < count * width) product.resize(count * width);
    for (int64_t k = 0; k < count; ++k) {
      T* sum = &gathered[k * depth];
      std::copy_n(x + sources[first[k]] * ld_in, depth, sum);
      for (int32_t s = first[k] + 1; s < first[k + 1]; ++s) {
        const T* row = x + sources[s] * ld_in;
        for (int64_t j = 0; j < depth; ++j) sum[j] += row[j];
      }
    }
    for (int64_t column = 0; column < width; column += NV * W<T>)
      panel<NV>(int(std::min<int64_t>(NV, (width - column) / W<T>)), count, depth, gathered.data(),
                depth, table(c) + from + column, -step, &product[column], width, false);
    for (int64_t k = 0; k < count; ++k) {
      T* row = out + rows[k] * ld + from;
      const T* add = &product[k * width];
      for (int64_t j = 0; j < width; j += W<T>) store(row + j, load(row + j) + load(add + j));
    }
  }
  team.barrier();
}

// exp(-C / epsilon), times exp(shift).
template <class T>
class LineScaling {
 public:
  explicit LineScaling(const LineCost& geo) : geo_(geo), gibbs_(geo), weighted_(geo) {}

  void prepare(Team& team, double epsilon) {
    if (epsilon == epsilon_) return;
    const double shift = factor_shift<T>(geo_.max_cost, epsilon);
    gibbs_.build(team, [=](Vec<double> c) { return vexp(c * (-1.0 / epsilon) + shift); });
    team.once([&] {
      shift_ = shift;
      epsilon_ = epsilon;
    });
  }
  double shift() const { return shift_; }

  struct Trace {
    const T* factor;
  };
  void forward(Team& team, const T* y, T* out, Trace& trace) {
    trace.factor = y;
    multiply_lines(team, geo_.forward, geo_.m, geo_.n, geo_.step,
                   [this](int64_t c) { return gibbs_.forward(c); }, y, out);
  }
  void backward(Team& team, const T* x, T* out, Trace& trace) {
    trace.factor = x;
    multiply_lines(team, geo_.backward, geo_.n, geo_.m, 1,
                   [this](int64_t c) { return gibbs_.backward(c); }, x, out);
  }

  // sum_xy x(x) C(x, y) exp(-C(x, y) / epsilon) y(y) after forward(y) and backward(x).
  double cost(Team& team, const Trace& forward, const Trace& backward) {
    if (weighted_epsilon_ != epsilon_) {
      weighted_.build(team, [this](Vec<double> c) {
        return c * vexp(c * (-1.0 / epsilon_) + shift_);
      });
      team.once([&] {
        weighted_epsilon_ = epsilon_;
        scratch_.resize(size<T>(geo_.n));
      });
    }
    multiply_lines(team, geo_.forward, geo_.m, geo_.n, geo_.step,
                   [this](int64_t c) { return weighted_.forward(c); }, forward.factor,
                   scratch_.data());
    Vec<T> total{};
    const auto [from, to] = team.share(size<T>(geo_.n), W<T>);
    for (int64_t i = from; i < to; i += W<T>)
      total += load(backward.factor + i) * load(&scratch_[i]);
    return team.sum(hsum(total));
  }

 private:
  const LineCost& geo_;
  double epsilon_ = 0, weighted_epsilon_ = 0, shift_ = 0;
  LineTables<T> gibbs_, weighted_;
  Array<T> scratch_;
};

// log sum_y exp(h(y) - C(x, y) / epsilon), term by term, in any range.
class LineLog {
 public:
  LineLog(const LineCost& geo, double epsilon) : geo_(geo), epsilon_(epsilon), nats_(geo) {
    Team alone;
    nats_.build(alone, [=](Vec<double> c) { return c / epsilon; });
  }

  void forward(Team& team, const double* h, double* out) {
    run<false>(team, geo_.m, geo_.n, h, out, nullptr);
  }
  // mean is that of the cost over y.
  void forward_mean(Team& team, const double* h, double* out, double* mean) {
    run<true>(team, geo_.m, geo_.n, h, out, mean);
  }
  void backward(Team& team, const double* h, double* out) {
    const int64_t columns = geo_.m.lines();
    sum<false>(team, geo_.n, geo_.m, 1,
               [&](int64_t to, int64_t in) {
                 return nats_.backward(geo_.class_of[in * columns + to]);
               },
               h, out, nullptr);
  }

 private:
  template <bool kMean>
  void run(Team& team, const Shape& in, const Shape& to, const double* h, double* out,
           double* mean) {
    const int64_t columns = geo_.m.lines();
    sum<kMean>(team, in, to, geo_.step,
               [&](int64_t r, int64_t q) { return nats_.forward(geo_.class_of[r * columns + q]); },
               h, out, mean);
  }
  template <bool kMean, class Table>
  void sum(Team& team, const Shape& in, const Shape& to, int64_t step, Table table,
           const double* h, double* out, double* mean) {
    const int64_t ld_in = stride<double>(in), ld = stride<double>(to);
    const auto [from, end] = team.share(to.lines());
    for (int64_t r = from; r < end; ++r)
      for (int64_t j = 0; j < ld; j += W<double>) {
        Vec<double> top = splat(-1e300), total{}, weighted{};
        const auto each_term = [&](auto term) {
          for (int64_t q = 0; q < in.lines(); ++q) {
            const double* nats = table(r, q) + j;
            for (int64_t l = 0; l < in[2]; ++l) term(h[q * ld_in + l], load(nats - step * l));
          }
        };
        each_term([&](double x, Vec<double> c) { top = vmax(top, x - c); });
        each_term([&](double x, Vec<double> c) {
          const Vec<double> t = x - c - top;
          if (!any(t > -45.0)) return;  // too small to change a double
          const Vec<double> e = vexp(t);
          total += e;
          if constexpr (kMean) weighted += e * c;
        });
        store(out + r * ld + j, top + vlog(total));
        if constexpr (kMean)
          store(mean + r * ld + j,
                select(total > 0.0, weighted / total * epsilon_, Vec<double>{}));
      }
    team.barrier();
  }

  const LineCost& geo_;
  double epsilon_;
  LineTables<double> nats_;
};

template <>
struct Kernels<LineCost> {
  template <class T>
  using Scaling = LineScaling<T>;
  using Log = LineLog;
};

}  // namespace
