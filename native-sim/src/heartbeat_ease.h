// Whether the heartbeat thread goes ahead of captures just now. On a host with CPU to spare it is an
// ordinary thread ("at ease"), and captures at real-time priority on every CPU would silence it. So
// whoever is about to compute for long at such a priority calls it up first. One such thread a process.
#pragma once

#include <sys/types.h>

namespace romulus {

// The thread is an ordinary one from now on; not where one capture alone would take every CPU.
bool EaseHeartbeat(pid_t thread_id);
// It is a real-time thread again, by its own doing.
void HeartbeatIsBoosted();
// Makes it a real-time thread if it is at ease. Any thread; takes a system call only then.
void CallUpHeartbeat();
// Whether it was called up since this was asked last.
bool WasHeartbeatCalledUp();

}  // namespace romulus
