// Two hands for short work: the calling thread and one helper share the parts of a job. The caller
// starts at once and never waits for a helper that has not begun: a helper that is late, or on a busy
// CPU, costs nothing but its help.
//
// The helper spins briefly after a job, because the parts of one capture (scan, then copy) follow
// each other within microseconds, then sleeps on a futex.
//
// Threads: Run from one thread at a time. The helper lives as long as the Crew and is joined by the
// destructor; it runs with all signals blocked and touches nothing but the job's own data.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <thread>

namespace romulus {

class Crew {
 public:
  // threads: 1 (no helper) or 2; a process that may use one CPU only gets no helper.
  explicit Crew(int threads);
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;
  ~Crew();

  // Calls work(context, part) once for every part in [0, parts) and returns when all are done. When
  // parts threw, one of their exceptions is thrown again here; the others still ran.
  template <typename Work>
  void Run(uint32_t parts, const Work& work) {
    RunParts(
        parts,
        [](const void* context, uint32_t part) { (*static_cast<const Work*>(context))(part); },
        &work);
  }

  int threads() const { return helper_.joinable() ? 2 : 1; }

 private:
  using Function = void (*)(const void* context, uint32_t part);

  void RunParts(uint32_t parts, Function function, const void* context);
  void RunOne(uint32_t part);
  bool ClaimAndRun(uint32_t generation);
  void HelperMain();

  Function function_ = nullptr;
  const void* context_ = nullptr;
  std::atomic<uint32_t> parts_{0};
  // Generation of the job in the upper half, next free part in the lower: one compare-and-exchange
  // claims a part of exactly that job, so a late helper cannot touch a later one by mistake.
  std::atomic<uint64_t> ticket_{0};
  std::atomic<uint32_t> finished_{0};
  // What a sleeping helper waits on: the generation again, in a futex's width.
  std::atomic<uint32_t> wake_{0};
  std::atomic<bool> asleep_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> failed_{false};
  std::exception_ptr failure_;
  std::thread helper_;
};

}  // namespace romulus
