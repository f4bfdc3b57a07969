// Priorities of our threads, together, because their order matters: a capture must never keep the
// heartbeat thread from the CPU, or a busy primary would look dead (heartbeat_ease.h for when that thread
// is an ordinary one); and a main thread in a failover keeps neither from it.
#pragma once

#include <pthread.h>
#include <sched.h>
#include <sys/types.h>

namespace romulus {

constexpr int kMainPriority = 1;
constexpr int kCapturePriority = 2;
constexpr int kHeartbeatPriority = 3;
// Of threads that are ordinary ones and yet ahead of nearly all.
constexpr int kBoostNiceness = -20;

// Makes a thread of this process such a one. The niceness goes first: it is kept for a real-time thread and
// counts from the moment that the thread is none, so a refusal changes nothing.
bool Ease(pid_t thread_id);

// Puts the thread that makes it ahead of all ordinary ones for as long as it lives, because a guest
// stands still for it: a time slice lost to a neighbour would be paid by the guest. A thread that is
// real-time already, or whose user may not be, stays as it is.
class Urgent {
 public:
  Urgent() {
    if (pthread_getschedparam(pthread_self(), &policy_, &parameters_) != 0) return;
    if (policy_ == SCHED_FIFO || policy_ == SCHED_RR) return;
    sched_param urgent{};
    urgent.sched_priority = kCapturePriority;
    raised_ = pthread_setschedparam(pthread_self(), SCHED_RR, &urgent) == 0;
  }
  Urgent(const Urgent&) = delete;
  Urgent& operator=(const Urgent&) = delete;
  ~Urgent() {
    if (raised_) pthread_setschedparam(pthread_self(), policy_, &parameters_);
  }

 private:
  int policy_ = SCHED_OTHER;
  sched_param parameters_{};
  bool raised_ = false;
};

}  // namespace romulus
