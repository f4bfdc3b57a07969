// Starts a thread to which no signal is ever delivered: signals are for threads that know what to do
// with them, and a thread inherits its mask from the one that starts it.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <thread>
#include <utility>

namespace romulus {

template <typename Main>
std::thread ThreadWithoutSignals(Main main) {
  // Undone in any case, also when there can be no more threads.
  struct AllBlocked {
    sigset_t saved;
    AllBlocked() {
      sigset_t all;
      sigfillset(&all);
      pthread_sigmask(SIG_SETMASK, &all, &saved);
    }
    ~AllBlocked() { pthread_sigmask(SIG_SETMASK, &saved, nullptr); }
  };
  const AllBlocked blocked;
  return std::thread(std::move(main));
}

}  // namespace romulus
