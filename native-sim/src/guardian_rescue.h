// What the guardian says to QEMU once the engine is dead: the machine runs on, and, when it may be
// heard, nothing holds its output any more.
#pragma once

#include <cstdint>

namespace romulus {

struct RescueOrder {
  // The engine had stopped the machine.
  bool resume = false;
  // The engine was in a pause. QEMU ends it by itself, but leaves a machine in state `save-vm` whose own system had
  // suspended it (qmp_xen_save_devices_state in migration/savevm.c, since 9.0).
  bool was_in_pause = false;
  // Filters romulus-nf0 up to this number are taken out; 0: they stay, and drop every frame.
  uint32_t open_filters = 0;
};

// Carries the order out over the QMP socket at `path`. True when that is done, or when nobody is
// there to be told: the machine died with its engine.
bool Rescue(const char* path, const RescueOrder& order);

}  // namespace romulus
