// The processor of device.h on the host: every thread of a cluster is a fiber that runs until it
// has to wait. Tests run kernels here; shared memory starts as NaN, and UNOT_FAST_EMULATOR_ORDER
// (0 forward, 1 backward, other: a permutation) sets the order in which threads get their turn,
// which the results of a correct kernel do not depend on. Compiled with -fsanitize=thread, its
// kernels tell tests/cuda/races.cpp of every access.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#define KERNEL
#define DEVICE
#define NOINLINE
#define GRID_CONSTANT
#define MOST_THREADS(count)

#ifdef __SANITIZE_THREAD__
extern "C" {
// Accesses are those of this thread from now on, but for those to its stack; of no thread.
void watch_thread(int cluster, int block, int thread, const void* stack, size_t stack_bytes);
void watch_nothing();
// A launch begins, memory ends, a read that goes unseen else.
void watch_launch();
void watch_end(const void* memory, size_t bytes);
void watch_read(const void* memory, size_t bytes);
// All threads of a block have met, or of the cluster.
void watch_block_barrier(int block);
void watch_cluster_barrier();
}
#else
inline void watch_thread(int, int, int, const void*, size_t) {}
inline void watch_nothing() {}
inline void watch_launch() {}
inline void watch_end(const void*, size_t) {}
inline void watch_read(const void*, size_t) {}
inline void watch_block_barrier(int) {}
inline void watch_cluster_barrier() {}
#endif

namespace {

constexpr int kLanes = 32;

// What waits for all of a group of threads; the last one to arrive may work for all.
struct Meeting {
  int members = 0, arrived = 0;
  unsigned generation = 0;
};

class Emulator {
 public:
  struct Fiber {
    jmp_buf resume;
    std::vector<char> stack;
    int thread = 0, block = 0;
    bool done = false;
    const void* operands = nullptr;
  };

  static Emulator*& current() {
    static Emulator* emulator = nullptr;
    return emulator;
  }

  Emulator(int clusters, int cluster, int threads, size_t shared_bytes)
      : clusters_(clusters), cluster_(cluster), threads_(threads), shared_bytes_(shared_bytes) {}

  void run(const std::function<void()>& body) {
    current() = this;
    watch_launch();
    for (index_ = 0; index_ < clusters_; ++index_) run_cluster(body);
    current() = nullptr;
  }

  Fiber& fiber() { return *active_; }
  // What the emulator itself does is nobody's access.
  struct Unwatched {
    Unwatched() { watch_nothing(); }
    ~Unwatched() { current()->watch(); }
  };
  int threads() const { return threads_; }
  int cluster() const { return cluster_; }
  int clusters() const { return clusters_; }
  int index() const { return index_; }

  char* shared(int block) { return shared_[block].get() + kGuard; }
  // For an access from another block, which has to end before this one does.
  char* shared_of_running(int block) {
    if (running_[block] == 0) fail("an access to a block that has ended");
    return shared(block);
  }
  int block_of(const void* p) const {
    for (int block = 0; block < cluster_; ++block) {
      const char* start = shared_[block].get() + kGuard;
      if (p >= start && p < start + shared_bytes_) return block;
    }
    fail("an address is not in shared memory");
  }

  // `last` runs once, when all members have come.
  template <class F>
  void meet(Meeting& meeting, F last) {
    Unwatched unwatched;
    if (++meeting.arrived == meeting.members) {
      last();
      meeting.arrived = 0;
      ++meeting.generation;
      return;
    }
    const unsigned generation = meeting.generation;
    while (meeting.generation == generation) yield();
  }
  void block_barrier() {
    meet(blocks_[active_->block], [this] { watch_block_barrier(active_->block); });
  }
  void cluster_barrier() {
    meet(all_, [] { watch_cluster_barrier(); });
  }
  // combine(operands of the 32 lanes) once per warp.
  template <class Operands, class F>
  void warp_together(const Operands& own, F combine) {
    Unwatched unwatched;
    active_->operands = &own;
    const int first = (active_->block * threads_ + active_->thread) / kLanes * kLanes;
    meet(warps_[first / kLanes], [&] {
      const Operands* operands[kLanes];
      for (int i = 0; i < kLanes; ++i)
        operands[i] = static_cast<const Operands*>(fibers_[first + i].operands);
      combine(operands);
    });
    // Operands are on the stacks of the lanes: nobody leaves before all have been read.
  }

 private:
  static constexpr size_t kGuard = 4096, kStack = 256 * 1024;
  static constexpr unsigned char kCanary = 0xa5;

  [[noreturn]] static void fail(const char* what) {
    std::fprintf(stderr, "emulator: %s\n", what);
    std::abort();
  }

  void run_cluster(const std::function<void()>& body) {
    const int count = cluster_ * threads_;
    shared_.clear();
    for (int block = 0; block < cluster_; ++block) {
      // Aligned like shared memory; guards on both sides, NaN between.
      const size_t bytes = (shared_bytes_ + 2 * kGuard + kGuard - 1) / kGuard * kGuard;
      shared_.emplace_back(static_cast<char*>(std::aligned_alloc(kGuard, bytes)), &std::free);
      std::memset(shared_.back().get(), kCanary, bytes);
      std::memset(shared(block), 0xff, shared_bytes_);
    }
    fibers_ = std::vector<Fiber>(count);
    blocks_.assign(cluster_, {threads_});
    warps_.assign(count / kLanes, {kLanes});
    all_ = {count};
    set_order(count);
    body_ = &body;
    left_ = count;
    running_.assign(cluster_, threads_);
    for (int i = 0; i < count; ++i) {
      fibers_[i].thread = i % threads_;
      fibers_[i].block = i / threads_;
      fibers_[i].stack.resize(kStack);
    }
    place_ = 0;
    if (!_setjmp(finished_)) start_or_resume();
    for (int block = 0; block < cluster_; ++block) {
      check_guards(block);
      watch_end(shared(block), shared_bytes_);
    }
  }
  void set_order(int count) {
    const char* setting = std::getenv("UNOT_FAST_EMULATOR_ORDER");
    const int order = setting ? std::atoi(setting) : 0;
    order_.resize(count);
    std::iota(order_.begin(), order_.end(), 0);
    if (order == 1) std::reverse(order_.begin(), order_.end());
    if (order > 1) std::shuffle(order_.begin(), order_.end(), std::mt19937(order));
    started_.assign(count, false);
  }
  void check_guards(int block) {
    const auto* start = reinterpret_cast<unsigned char*>(shared(block));
    for (size_t i = 1; i <= kGuard; ++i)
      if (*(start - i) != kCanary) fail("a write before shared memory");
    for (size_t i = 0; i < kGuard; ++i)
      if (start[shared_bytes_ + i] != kCanary) fail("a write past shared memory");
  }

  // To the fiber at place_, or the next one that is not done.
  [[noreturn]] void start_or_resume() {
    while (fibers_[order_[place_]].done) place_ = (place_ + 1) % int(order_.size());
    const int next = order_[place_];
    active_ = &fibers_[next];
    if (started_[next]) _longjmp(active_->resume, 1);
    started_[next] = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = active_->stack.data();
    context.uc_stack.ss_size = kStack;
    context.uc_link = nullptr;
    makecontext(&context, &Emulator::enter, 0);
    setcontext(&context);
    std::abort();
  }
  void watch() {
    const Fiber& f = *active_;
    watch_thread(index_, f.block, f.thread, f.stack.data(), kStack);
  }
  static void enter() {
    Emulator& self = *current();
    self.watch();
    (*self.body_)();
    watch_nothing();
    self.active_->done = true;
    --self.running_[self.active_->block];
    if (--self.left_ == 0) _longjmp(self.finished_, 1);
    self.start_or_resume();
  }
  void yield() {
    if (_setjmp(active_->resume)) return;
    place_ = (place_ + 1) % int(order_.size());
    start_or_resume();
  }

  int clusters_, cluster_, threads_, index_ = 0, left_ = 0, place_ = 0;
  size_t shared_bytes_;
  const std::function<void()>* body_ = nullptr;
  std::vector<std::unique_ptr<char, decltype(&std::free)>> shared_;
  std::vector<Fiber> fibers_;
  std::vector<int> order_;
  std::vector<bool> started_;
  std::vector<int> running_;  // threads of each block
  std::vector<Meeting> blocks_, warps_;
  Meeting all_;
  Fiber* active_ = nullptr;
  jmp_buf finished_;
};

inline int thread() { return Emulator::current()->fiber().thread; }
inline int threads() { return Emulator::current()->threads(); }
inline int cluster_index() { return Emulator::current()->index(); }
inline int clusters() { return Emulator::current()->clusters(); }
inline int cluster_rank() { return Emulator::current()->fiber().block; }
inline int cluster_size() { return Emulator::current()->cluster(); }
inline void block_barrier() { Emulator::current()->block_barrier(); }
inline void cluster_barrier() { Emulator::current()->cluster_barrier(); }
inline char* shared_memory() { return Emulator::current()->shared(cluster_rank()); }
template <class T>
T* in_block(T* p, int rank) {
  Emulator& e = *Emulator::current();
  const char* at = reinterpret_cast<const char*>(p);
  return reinterpret_cast<T*>(e.shared_of_running(rank) + (at - e.shared(e.block_of(p))));
}

template <class T>
T* in_shared(T* p) {
  Emulator::current()->block_of(p);
  return p;
}

template <class T>
T shuffle_xor(T x, int mask) {
  struct Operands {
    T value;
    T* result;
    int mask;
  };
  T result{};
  Emulator::current()->warp_together(Operands{x, &result, mask}, [](const Operands** lanes) {
    for (int i = 0; i < kLanes; ++i) *lanes[i]->result = lanes[i ^ lanes[i]->mask]->value;
  });
  return result;
}

inline double as_operand(double x) { return x; }
// tf32: ten bits of fraction, ties away from zero.
inline float as_operand(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0x1000u) & 0xffffe000u;
  std::memcpy(&x, &bits, sizeof bits);
  return x;
}
inline double seen_by_tensor_cores(double x) { return x; }
inline float seen_by_tensor_cores(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits &= 0xffffe000u;
  std::memcpy(&x, &bits, sizeof bits);
  return x;
}

template <class T>
void multiply(T (&c)[4], const T (&a)[4], const T (&b)[2]) {
  struct Operands {
    T* c;
    const T *a, *b;
  };
  Emulator::current()->warp_together(Operands{c, a, b}, [](const Operands** lanes) {
    T A[16][8], B[8][8];
    for (int i = 0; i < kLanes; ++i) {
      const int g = i / 4, t = i % 4;
      for (int q = 0; q < 4; ++q)
        A[g + 8 * (q % 2)][t + 4 * (q / 2)] = seen_by_tensor_cores(lanes[i]->a[q]);
      for (int q = 0; q < 2; ++q) B[t + 4 * q][g] = seen_by_tensor_cores(lanes[i]->b[q]);
    }
    for (int i = 0; i < kLanes; ++i)
      for (int q = 0; q < 4; ++q) {
        T sum = 0;
        for (int k = 0; k < 8; ++k) sum += A[i / 4 + 8 * (q / 2)][k] * B[k][2 * (i % 4) + q % 2];
        lanes[i]->c[q] += sum;
      }
  });
}

inline void load_matrices(const float* row, float (&x)[4]) {
  struct Operands {
    const float* row;
    float* x;
  };
  if (reinterpret_cast<uintptr_t>(in_shared(row)) % 16) std::abort();
  watch_read(row, 16);
  Emulator::current()->warp_together(Operands{row, x}, [](const Operands** lanes) {
    for (int i = 0; i < kLanes; ++i)
      for (int q = 0; q < 4; ++q) lanes[i]->x[q] = lanes[8 * q + i / 4]->row[i % 4];
  });
}

inline float reciprocal(float x) { return 1.0f / x; }
inline double reciprocal(double x) { return 1.0 / x; }

template <class T>
struct alignas(2 * sizeof(T)) Pair {
  T x, y;
};

inline int fetch_add(int* counter) {
  Emulator::Unwatched unwatched;
  return (*counter)++;
}

}  // namespace
