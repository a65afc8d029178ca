// What a launch passes to the kernel, in device memory wherever it is a pointer.
#pragma once

#include <cstdint>

#include "../level_epsilon.h"

constexpr int kMostLevels = 8;

// kMixed: far from the solution in tf32, and then in float64 before anything is judged or returned.
enum Precision { kDouble = 0, kMixed = 1 };

// A grid: the one to solve on, or a coarser one. Matrices are row-major, null where an axis has
// length one; the first axis of a one-dimensional problem has.
struct LevelArguments {
  int n[2], m[2];                   // source and target
  const double* cost[2];            // (n_k, m_k)
  const double* prolongation[2];    // (m_k of the next finer level, n_k)
  // Shares of the finer cells: (n_k, n_k of the finer level).
  const double *pool_n[2], *pool_m[2];
  LevelEpsilon epsilon;
  double work;
};

// A cost that depends on the last axis only through a shift: between position j of row r of the
// source and l of row q of the target table[class_of[r, q], j - l + m - 1]. Leading axes are rows.
struct LineArguments {
  const double* table;  // (classes, length)
  const int32_t* class_of;
  int classes, length;
};

// Offsets in bytes of the arrays of one precision: in shared memory, or from scratch on where
// `in_scratch` has the array's bit.
struct Room {
  int64_t x, between, kernel[2], u, v, a, b;
  unsigned in_scratch;
};

struct Arguments {
  int64_t batch;
  int single;  // a, b and the results are of floats
  int precision;
  const void *a, *b;
  const double* epsilon;
  double tol;
  int criterion, max_iter;
  double overrelaxation;  // 0: chosen per problem
  void *f, *g, *cost, *value, *marginal_error;
  int32_t* n_iters;
  uint8_t *converged, *log_domain;
  double* coarse_work;

  int levels;  // coarser grids; level[0] is the grid itself
  LevelArguments level[kMostLevels + 1];
  LineArguments lines;
  const double *x[2], *y[2];  // coordinates of the coarsest level
  int start;                  // 0: g as given, 1: pyramid from zeros, 2: pyramid from Gaussians
  double level_tol;
  int level_max_iter;

  int together;  // levels up to this one are shared by the blocks of a cluster
  Room room[2];  // of floats, of doubles
  char* scratch;
  int64_t scratch_per_block, scratch_f, scratch_g, scratch_masses, scratch_mean;
  int* next_problem;
};
