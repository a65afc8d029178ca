// The epsilon of a coarser grid, for every processor alike.
#pragma once

#include "portable.h"

// Of a level: the smallest that it is solved at, and by how much that of the level and that of the
// prolongation to the next finer one are below the problem's. All zero for the grid itself.
struct LevelEpsilon {
  double smallest, blur, blur_between;
};

namespace {

HOST_DEVICE inline double epsilon_of(const LevelEpsilon& level, double epsilon) {
  return most(most(epsilon - level.blur, 0.25 * epsilon), level.smallest);
}
HOST_DEVICE inline double epsilon_between(const LevelEpsilon& level, double epsilon) {
  return most(epsilon - level.blur_between, epsilon_of(level, epsilon));
}

}  // namespace
