#include "heartbeat_ease.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

#include "priority.h"

namespace romulus {
namespace {

// Thread id of the heartbeat thread while it is at ease, else 0.
std::atomic<pid_t> at_ease{0};
std::atomic<bool> was_called_up{false};

bool HasCpuToSpare() {
  cpu_set_t cpus;
  return sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) > 1;
}

}  // namespace

bool EaseHeartbeat(pid_t thread_id) {
  if (!HasCpuToSpare() || !Ease(thread_id)) return false;
  at_ease.store(thread_id);
  return true;
}

void HeartbeatIsBoosted() { at_ease.store(0); }

void CallUpHeartbeat() {
  const pid_t thread_id = at_ease.exchange(0);
  // One that has ended must not be taken for a stranger that was given its number.
  if (thread_id == 0 || syscall(SYS_tgkill, getpid(), thread_id, 0) != 0) return;
  sched_param parameters{};
  parameters.sched_priority = kHeartbeatPriority;
  sched_setscheduler(thread_id, SCHED_RR | SCHED_RESET_ON_FORK, &parameters);
  was_called_up.store(true);
}

bool WasHeartbeatCalledUp() { return was_called_up.exchange(false); }

bool Ease(pid_t thread_id) {
  sched_param parameters{};
  return setpriority(PRIO_PROCESS, static_cast<id_t>(thread_id), kBoostNiceness) == 0 &&
         sched_setscheduler(thread_id, SCHED_OTHER | SCHED_RESET_ON_FORK, &parameters) == 0;
}

}  // namespace romulus
