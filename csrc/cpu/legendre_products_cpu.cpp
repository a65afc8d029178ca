// Between the lines of latitude and the degrees of a sphere: one matrix for each order.

#include "gemm.h"
#include "stretch.h"

// Lines are (batch, channels, points, 2, orders), coefficients (degrees, orders, batch, channels,
// 2), the table (orders, rows, columns), all of floats where single is set. From lines the rows are
// degrees, to lines they are points.
struct LegendreArguments {
  int64_t batch, channels, points, degrees, orders;
  int single, to_lines;
  const void *x, *table;
  int threads;
  void* out;
};

namespace {

// A few channels of one sample at a time, both parts of all of them side by side.
template <class T>
class LegendreProducts {
 public:
  explicit LegendreProducts(const LegendreArguments& args)
      : args_(args), most_(channels(args)), ld_(padded<T>(2 * most_)),
        lines_(args.points * args.orders * ld_, T(0)), column_(args.degrees * ld_, T(0)) {}

  static int64_t blocks(const LegendreArguments& args) {
    return args.batch * ((args.channels + channels(args) - 1) / channels(args));
  }
  void operator()(int64_t block) {
    const int64_t across = blocks(args_) / args_.batch;
    sample_ = block / across, first_ = block % across * most_;
    count_ = std::min(most_, args_.channels - first_);
    args_.to_lines ? to_lines() : to_degrees();
  }

 private:
  // What the lines of a block take is half of the second-level cache.
  static int64_t channels(const LegendreArguments& args) {
    const int64_t each = 2 * args.points * args.orders * int64_t(sizeof(T));
    const int64_t shared = args.channels * args.batch / (4 * args.threads);
    const int64_t most = std::min(shared, (1 << 19) / each) / W<T> * W<T>;
    return std::clamp<int64_t>(most, W<T> / 2, std::max<int64_t>(args.channels, W<T> / 2));
  }

  void to_degrees() {
    const T* x = static_cast<const T*>(args_.x);
    each_line(x, [](const T& from, T& to) { to = from; });
    for (int64_t m = 0; m < args_.orders; ++m) {
      const int64_t rows = args_.degrees, columns = args_.points;
      const T* table = static_cast<const T*>(args_.table) + m * rows * columns;
      // Degrees below the order have no harmonics: their rows are zero.
      const auto is_zero = [&](const T* row) {
        return std::all_of(row, row + columns, [](T t) { return t == T(0); });
      };
      int64_t from = 0;
      while (from < rows && is_zero(table + from * columns)) ++from;
      gemm(from, rows, ld_, columns, table, columns, &lines_[m * ld_], args_.orders * ld_,
           column_.data(), ld_);
      std::fill_n(column_.data(), from * ld_, T(0));
      for (int64_t l = 0; l < rows; ++l)
        std::copy_n(&column_[l * ld_], 2 * count_, coefficients(static_cast<T*>(args_.out), l, m));
    }
  }
  void to_lines() {
    for (int64_t m = 0; m < args_.orders; ++m) {
      const int64_t rows = args_.points, columns = args_.degrees;
      const T* table = static_cast<const T*>(args_.table) + m * rows * columns;
      const auto is_zero = [&](int64_t l) {
        for (int64_t i = 0; i < rows; ++i)
          if (table[i * columns + l] != T(0)) return false;
        return true;
      };
      int64_t from = 0;
      while (from < columns - 1 && is_zero(from)) ++from;
      for (int64_t l = from; l < columns; ++l)
        std::copy_n(coefficients(static_cast<const T*>(args_.x), l, m), 2 * count_,
                    &column_[l * ld_]);
      gemm(0, rows, ld_, columns - from, table + from, columns, &column_[from * ld_], ld_,
           &lines_[m * ld_], args_.orders * ld_);
    }
    each_line(static_cast<T*>(args_.out), [](T& to, const T& from) { to = from; });
  }

  // f(number of x, its place in lines_).
  template <class X, class F>
  void each_line(X* x, F f) {
    for (int64_t i = 0; i < args_.points; ++i)
      for (int64_t c = 0; c < count_; ++c) {
        const int64_t channel = sample_ * args_.channels + first_ + c;
        X* re = x + (channel * args_.points + i) * 2 * args_.orders;
        X* im = re + args_.orders;
        T* place = &lines_[i * args_.orders * ld_ + 2 * c];
        for (int64_t m = 0; m < args_.orders; ++m, place += ld_) {
          f(re[m], place[0]);
          f(im[m], place[1]);
        }
      }
  }
  template <class X>
  X* coefficients(X* x, int64_t l, int64_t m) const {
    return x + 2 * (((l * args_.orders + m) * args_.batch + sample_) * args_.channels + first_);
  }

  const LegendreArguments& args_;
  const int64_t most_, ld_;  // channels of a block, and what they take
  int64_t sample_ = 0, first_ = 0, count_ = 0;
  Array<T> lines_, column_;
};

template <class T>
void legendre_products(const LegendreArguments& args) {
  for_each_stretch(
      LegendreProducts<T>::blocks(args), args.threads, [&] { return LegendreProducts<T>(args); },
      [](auto& own, int64_t from, int64_t to) {
        for (int64_t block = from; block < to; ++block) own(block);
      });
}

}  // namespace

extern "C" void PER_ISA(legendre_products)(const LegendreArguments* args) {
  (args->single ? legendre_products<float> : legendre_products<double>)(*args);
}
