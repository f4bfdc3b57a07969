// The command line of romulus-sim.
#pragma once

#include <string>

#include "sim_machine.h"

namespace romulus::sim {

struct Options {
  MachineSettings machine;
  std::string socket_path;
  bool incoming = false;
  bool paused = false;
  int parent = 0;  // process to end with, 0: none
  bool help = false;
};

extern const char kUsage[];

// Empty when `options` was filled, else one line that says which option is wrong and what it takes.
std::string ParseOptions(int argc, char** argv, Options& options);

// Frames per million steps that make about 500 frames a second at this rate.
uint32_t DefaultBeacons(Workload workload, uint64_t rate);

}  // namespace romulus::sim
