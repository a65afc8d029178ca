// Finds races in kernels that run in the emulator: two accesses to one place by threads that no
// barrier comes between, one of them a write. The compiler's -fsanitize=thread calls what is
// defined here for every access; a race ends the process. A byte and a word that has it are not
// compared.

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <unordered_map>
#include <vector>

namespace {

struct Access {
  int cluster, block, thread;
  unsigned block_epoch, cluster_epoch;  // barriers before it
  bool write;
  const void* caller;
};

// Since barriers are met by all threads of a block or cluster, they order what comes before and
// after them, and nothing else does.
bool ordered(const Access& x, const Access& y) {
  if (x.cluster != y.cluster) return false;
  if (x.cluster_epoch != y.cluster_epoch) return true;
  return x.block == y.block && (x.thread == y.thread || x.block_epoch != y.block_epoch);
}

struct Cell {
  bool written = false;
  Access write;
  std::vector<Access> reads;  // none before another; of equals two, which have all their races
};

struct Watch {
  bool active = false;
  Access now{};
  uintptr_t stack = 0, stack_end = 0;
  std::vector<unsigned> block_epochs = std::vector<unsigned>(16);
  unsigned cluster_epoch = 0;
  // Words of four bytes, and bytes that were accessed alone.
  std::unordered_map<uintptr_t, Cell> words, bytes;
} watch;

void describe(const char* what, const Access& x) {
  Dl_info info{};
  dladdr(x.caller, &info);
  const auto at = static_cast<const char*>(x.caller) - static_cast<const char*>(info.dli_fbase);
  std::fprintf(stderr, "%s %s of thread %d, block %d, cluster %d, at %s+0x%zx\n", what,
               x.write ? "write" : "read", x.thread, x.block, x.cluster, info.dli_fname,
               size_t(at));
}
void check(const Access& before, const Access& now) {
  if (ordered(before, now)) return;
  describe("race:", before);
  describe("and", now);
  std::abort();
}

void visit(Cell& cell, const Access& now) {
  if (cell.written) check(cell.write, now);
  if (now.write) {
    for (const Access& read : cell.reads) check(read, now);
    cell.reads.clear();
    cell.written = true;
    cell.write = now;
    return;
  }
  size_t kept = 0, alike = 0;
  for (const Access& read : cell.reads) {
    const bool same = read.cluster == now.cluster && read.block == now.block &&
                      read.block_epoch == now.block_epoch &&
                      read.cluster_epoch == now.cluster_epoch;
    if (same && (read.thread == now.thread || ++alike == 2)) return;
    if (same || !ordered(read, now)) cell.reads[kept++] = read;
  }
  cell.reads.resize(kept);
  cell.reads.push_back(now);
}

void record(const void* memory, size_t size, bool write, const void* caller) {
  if (!watch.active) return;
  const auto at = reinterpret_cast<uintptr_t>(memory);
  if (at >= watch.stack && at < watch.stack_end) return;
  Access now = watch.now;
  now.block_epoch = watch.block_epochs[now.block];
  now.cluster_epoch = watch.cluster_epoch;
  now.write = write;
  now.caller = caller;
  if (size < 4)
    for (size_t i = 0; i < size; ++i) visit(watch.bytes[at + i], now);
  else
    for (uintptr_t word = at / 4; word <= (at + size - 1) / 4; ++word)
      visit(watch.words[word], now);
}

}  // namespace

extern "C" {

void watch_thread(int cluster, int block, int thread, const void* stack, size_t stack_bytes) {
  watch.now.cluster = cluster;
  watch.now.block = block;
  watch.now.thread = thread;
  watch.stack = reinterpret_cast<uintptr_t>(stack);
  watch.stack_end = watch.stack + stack_bytes;
  watch.active = true;
}
void watch_nothing() { watch.active = false; }
void watch_launch() {
  watch.words.clear();
  watch.bytes.clear();
}
void watch_end(const void* memory, size_t bytes) {
  const auto at = reinterpret_cast<uintptr_t>(memory);
  for (uintptr_t word = at / 4; word <= (at + bytes) / 4; ++word) watch.words.erase(word);
  for (uintptr_t i = at; i < at + bytes && !watch.bytes.empty(); ++i) watch.bytes.erase(i);
}
void watch_read(const void* memory, size_t bytes) {
  record(memory, bytes, false, __builtin_return_address(0));
}
void watch_block_barrier(int block) { ++watch.block_epochs[block]; }
void watch_cluster_barrier() { ++watch.cluster_epoch; }

#define ACCESSES(kind, size)                             \
  void __tsan_##kind##read##size(void* p) {              \
    record(p, size, false, __builtin_return_address(0)); \
  }                                                      \
  void __tsan_##kind##write##size(void* p) {             \
    record(p, size, true, __builtin_return_address(0));  \
  }
ACCESSES(, 1)
ACCESSES(, 2)
ACCESSES(, 4)
ACCESSES(, 8)
ACCESSES(, 16)
ACCESSES(unaligned_, 2)
ACCESSES(unaligned_, 4)
ACCESSES(unaligned_, 8)
ACCESSES(unaligned_, 16)
void __tsan_read_range(void* p, size_t n) { record(p, n, false, __builtin_return_address(0)); }
void __tsan_write_range(void* p, size_t n) { record(p, n, true, __builtin_return_address(0)); }
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
