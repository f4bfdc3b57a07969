// Keeps the calling thread, which is real-time, off the CPU of a thread that it works with.
//
// A real-time thread wakes up on the CPU where it ran last, even when another one is idle
// (select_task_rq_rt in kernel/sched/rt.c). QEMU's thread wakes ours in the middle of its work, and both
// have talked to each other on one CPU: three times in four ours would keep that thread from saving the
// device state, and the kernel finds it another CPU only at its next tick, up to 4 ms later.
//
// It goes to any other CPU of its own; the kernel chooses. That is for the length of a pause; afterwards the
// thread may run where it might before. Where /proc does not tell or there is no other CPU, nothing happens.
// Not to be shared between threads.
#pragma once

#include <sched.h>
#include <sys/types.h>

#include "fd.h"

namespace romulus {

// Where the first thread of a process runs. 0 stands for no process.
class ThreadPlace {
 public:
  explicit ThreadPlace(pid_t process_id);
  // The CPU on which it runs or waits to run; -1 when it sleeps, or that cannot be known.
  int RunnableOn() const;

 private:
  Fd stat_;
};

class StepAside {
 public:
  explicit StepAside(const ThreadPlace& other) : other_(other) {}
  StepAside(const StepAside&) = delete;
  StepAside& operator=(const StepAside&) = delete;
  ~StepAside() { Return(); }

  // Moves to another CPU if the other thread wants to run on this one.
  void IfInTheWay();
  void Return();

 private:
  const ThreadPlace& other_;
  bool is_aside_ = false;
  cpu_set_t own_;
};

}  // namespace romulus
