// Threads that share one problem. All of them run the same code on their share of every array and
// meet at barriers, so a whole solve is one parallel region.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "vector.h"

namespace {

class Team {
 public:
  struct Shared {
    struct alignas(64) Slot {
      char bytes[64];
    };
    std::atomic<int> arrived{0};
    alignas(64) std::atomic<unsigned> phase{0};
    std::vector<Slot> slots[2];  // of each member
    explicit Shared(int size) : slots{std::vector<Slot>(size), std::vector<Slot>(size)} {}
  };

  Team() = default;
  Team(Shared* shared, int rank, int size) : shared_(shared), rank_(rank), size_(size) {}

  bool first() const { return rank_ == 0; }

  // Everything that any member wrote before is visible to all of them after.
  void barrier() {
    if (size_ == 1) return;
    const unsigned phase = shared_->phase.load(std::memory_order_relaxed);
    if (shared_->arrived.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
      shared_->arrived.store(0, std::memory_order_relaxed);
      shared_->phase.store(phase + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; shared_->phase.load(std::memory_order_acquire) == phase;) {
      if (++spins < 4096)
        relax();
      else
        std::this_thread::yield();  // more threads than cores
    }
  }

  // The member's part of [0, count), cut at multiples of grain.
  std::pair<int64_t, int64_t> share(int64_t count, int64_t grain = 1) const {
    if (size_ == 1) return {0, count};
    const int64_t grains = (count + grain - 1) / grain;
    return {std::min(count, grains * rank_ / size_ * grain),
            std::min(count, grains * (rank_ + 1) / size_ * grain)};
  }

  // merge over the members' values, the same for all; a barrier.
  template <class T, class Merge>
  T combine(T mine, Merge merge) {
    static_assert(sizeof(T) <= sizeof(Shared::Slot));
    if (size_ == 1) return mine;
    // Two sets of slots in turn: a member may begin the next call while others read this one's.
    auto& slots = shared_->slots[turn_ ^= 1];
    std::memcpy(slots[rank_].bytes, &mine, sizeof(T));
    barrier();
    T all;
    std::memcpy(&all, slots[0].bytes, sizeof(T));
    for (int r = 1; r < size_; ++r) {
      std::memcpy(&mine, slots[r].bytes, sizeof(T));
      all = merge(all, mine);
    }
    return all;
  }
  double sum(double mine) {
    return combine(mine, [](double x, double y) { return x + y; });
  }
  // The first member's value.
  template <class T>
  T broadcast(T mine) {
    return combine(mine, [](T x, T) { return x; });
  }

  // One member calls f; nobody else is at work meanwhile.
  template <class F>
  void once(F f) {
    barrier();
    if (rank_ == 0) f();
    barrier();
  }
  // f(team) with everyone, or with one member alone where the work is not worth barriers.
  template <class F>
  void call(bool together, F f) {
    if (together || size_ == 1) return f(*this);
    barrier();
    if (rank_ == 0) {
      Team alone;
      f(alone);
    }
    barrier();
  }

 private:
  static void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  Shared* shared_ = nullptr;
  int rank_ = 0, size_ = 1, turn_ = 0;
};

// Multiplications of a Sinkhorn iteration below which one thread is as fast as several.
constexpr int64_t kTogetherAbove = 1 << 21;

// Hands out the problems of a batch: to each team its own stretch, the same in every call, so that
// its data is where it was, then what other teams have left.
class Queue {
 public:
  Queue(int64_t batch, int teams) {
    for (int t = 0; t < teams; ++t)
      stretch_.emplace_back(batch * t / teams, batch * (t + 1) / teams);
  }
  // The next problem for a team, or -1; turn counts the stretches that it has exhausted.
  int64_t take(int team, int& turn) {
    const int teams = int(stretch_.size());
    for (; turn < teams; ++turn) {
      Stretch& s = stretch_[(team + turn) % teams];
      const int64_t i = s.next.fetch_add(1, std::memory_order_relaxed);
      if (i < s.end) return i;
    }
    return -1;
  }

 private:
  struct alignas(64) Stretch {
    std::atomic<int64_t> next;
    int64_t end;
    Stretch(int64_t from, int64_t to) : next(from), end(to) {}
  };
  std::deque<Stretch> stretch_;
};

// Calls solve(team, i, own) on every member of a team, for the problems i that the team is given;
// make() gives each team its own, by unique_ptr. Problems are spread over threads; threads that are
// left over join teams where the work is worth it.
template <class Make, class Solve>
void for_each_problem(int64_t batch, int threads, bool together, Make make, Solve solve) {
  const int most = together ? threads : int(std::min<int64_t>(batch, threads));
  std::deque<Team::Shared> shared;
  for (int64_t t = 0; t < std::min<int64_t>(batch, most); ++t) shared.emplace_back(most);
  std::vector<decltype(make())> owned(shared.size());
  Queue queue(batch, int(shared.size()));
  const auto member = [&](int thread, int running) {
    FlushSubnormals flush;
    const int teams = int(std::min<int64_t>(batch, running));
    const int size = running / teams, index = thread / size;
    if (index >= teams) return;
    Team team(&shared[index], thread % size, size);
    team.once([&] { owned[index] = make(); });
    for (int turn = 0;;) {
      const int64_t i = team.broadcast(team.first() ? queue.take(index, turn) : int64_t{0});
      if (i < 0) break;
      solve(team, i, *owned[index]);
    }
    team.once([&] { owned[index].reset(); });  // its memory stays with this thread
  };
#if defined(_OPENMP)
  if (most > 1) {
#pragma omp parallel num_threads(most)
    member(omp_get_thread_num(), omp_get_num_threads());
    return;
  }
#endif
  member(0, 1);
}

}  // namespace
