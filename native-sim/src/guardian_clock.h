// The guardian's clock, the same as that of the engine's beats.
#pragma once

#include <time.h>

#include <cstdint>

namespace romulus {

inline int64_t MonotonicMs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

}  // namespace romulus
