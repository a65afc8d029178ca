// Threads read what others wrote, of their block or of the other one, with and without a barrier
// between: "near none", "far block", ...

#include <cstring>

#include "launch.h"

namespace {

struct Case {
  bool far;
  char barrier;  // n, b, c: none, of the block, of the cluster
  bool stays;    // for the other block's accesses
};

void kernel(Case test) {
  int* const own = reinterpret_cast<int*>(shared_memory());
  own[thread()] = thread();
  if (test.barrier == 'b') block_barrier();
  if (test.barrier == 'c') cluster_barrier();
  if (cluster_rank() == 1) {
    const int* const from = test.far ? in_block(own, 0) : own;
    volatile int seen = from[(thread() + 5) % threads()];
    (void)seen;
  }
  if (test.stays) cluster_barrier();
}

}  // namespace

int main(int, char** words) {
  const Case test{std::strcmp(words[1], "far") == 0, words[2][0],
                  std::strcmp(words[3], "stays") == 0};
  return launch(kernel, test, {1, 2, 32, 4096}, 0, nullptr);
}
