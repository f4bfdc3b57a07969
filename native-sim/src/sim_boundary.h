// How the I/O thread gets between two instructions. Private to the machine's two source files.
#pragma once

#include "sim_machine.h"

namespace romulus::sim {

// Holds the machine's lock, at an instruction boundary, for as long as it lives.
class Machine::Boundary {
 public:
  explicit Boundary(Machine& machine) : machine_(machine) {
    machine_.boundary_wanted_.fetch_add(1);
    // The vCPU lets go within one instruction: a short spin is cheaper than a sleep and a wake-up.
    bool held = false;
    for (int i = 0; i < kSpins && !held; i++) {
      held = machine_.lock_.try_lock();
      if (!held) __builtin_ia32_pause();
    }
    if (!held) machine_.lock_.lock();
    machine_.boundary_wanted_.fetch_sub(1);
  }
  ~Boundary() {
    machine_.lock_.unlock();
    machine_.wake_.NotifyOne();
  }
  Boundary(const Boundary&) = delete;
  Boundary& operator=(const Boundary&) = delete;

 private:
  static constexpr int kSpins = 200;
  Machine& machine_;
};

}  // namespace romulus::sim
