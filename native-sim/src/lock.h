// A lock and the condition that goes with it.
//
// With priority inheritance (pthread_mutexattr_setprotocol(3)): a thread that runs ahead of ordinary
// ones waits here for an ordinary one, which on a loaded host may itself be waiting for a processor.
// As long as it does, the other inherits its priority, so that it is not held up by strangers. Such
// pairs: a simulated machine's I/O thread and its vCPU at the end of an instruction; the thread that
// receives disk writes and the one that takes them.
#pragma once

#include <pthread.h>
#include <time.h>

#include <cstdint>

namespace romulus {

class Lock {
 public:
  Lock() {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    // A kernel without it makes an ordinary mutex: slower stops, nothing else.
    pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
    if (pthread_mutex_init(&mutex_, &attributes) != 0) pthread_mutex_init(&mutex_, nullptr);
    pthread_mutexattr_destroy(&attributes);
  }
  ~Lock() { pthread_mutex_destroy(&mutex_); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

  void lock() { pthread_mutex_lock(&mutex_); }
  bool try_lock() { return pthread_mutex_trylock(&mutex_) == 0; }
  void unlock() { pthread_mutex_unlock(&mutex_); }

 private:
  friend class Condition;
  pthread_mutex_t mutex_;
};

class Condition {
 public:
  Condition() {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&condition_, &attributes);
    pthread_condattr_destroy(&attributes);
  }
  ~Condition() { pthread_cond_destroy(&condition_); }
  Condition(const Condition&) = delete;
  Condition& operator=(const Condition&) = delete;

  void NotifyOne() { pthread_cond_signal(&condition_); }
  // Both need the lock held, and may return early.
  void Wait(Lock& lock) { pthread_cond_wait(&condition_, &lock.mutex_); }
  void WaitUntil(Lock& lock, uint64_t monotonic_ns) {
    const timespec until = {static_cast<time_t>(monotonic_ns / 1'000'000'000),
                            static_cast<long>(monotonic_ns % 1'000'000'000)};
    pthread_cond_timedwait(&condition_, &lock.mutex_, &until);
  }

 private:
  pthread_cond_t condition_;
};

}  // namespace romulus
