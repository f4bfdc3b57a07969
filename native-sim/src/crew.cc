#include "crew.h"

#include <sched.h>
#include <time.h>

#include "priority.h"
#include "thread_without_signals.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace romulus {

namespace {

constexpr uint64_t kSpinNs = 100'000;
constexpr int kSpinsPerClock = 64;
constexpr int kSpinsPerYield = 512;

void Relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

uint64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

Crew::Crew(int threads) {
  cpu_set_t cpus;
  const bool alone = sched_getaffinity(0, sizeof(cpus), &cpus) == 0 && CPU_COUNT(&cpus) < 2;
  if (threads < 2 || alone) return;
  helper_ = ThreadWithoutSignals([this] { HelperMain(); });
}

Crew::~Crew() {
  if (!helper_.joinable()) return;
  stopping_.store(true);
  wake_.fetch_add(1);
  wake_.notify_one();
  helper_.join();
}

void Crew::RunOne(uint32_t part) {
  try {
    function_(context_, part);
  } catch (...) {
    if (!failed_.exchange(true)) failure_ = std::current_exception();
  }
  finished_.fetch_add(1, std::memory_order_release);
}

bool Crew::ClaimAndRun(uint32_t generation) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  for (;;) {
    const auto part = static_cast<uint32_t>(ticket);
    if (static_cast<uint32_t>(ticket >> 32) != generation || part >= parts_.load()) return false;
    if (ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) {
      RunOne(part);
      return true;
    }
  }
}

void Crew::RunParts(uint32_t parts, Function function, const void* context) {
  if (!helper_.joinable() || parts < 2) {
    for (uint32_t part = 0; part < parts; ++part) function(context, part);
    return;
  }
  const uint32_t generation = wake_.load(std::memory_order_relaxed) + 1;
  // No part of the job before is claimed or claimable any more, so nobody reads these while they
  // change. The part count is lowered first: a late helper with an old generation finds no part.
  parts_.store(0);
  function_ = function;
  context_ = context;
  failed_.store(false);
  failure_ = nullptr;
  finished_.store(0);
  ticket_.store(uint64_t{generation} << 32);
  parts_.store(parts);
  wake_.store(generation);
  if (asleep_.load()) wake_.notify_one();
  while (ClaimAndRun(generation)) {
  }
  // Yielding matters where the helper was put on this very CPU: between equals of real-time priority
  // it would otherwise wait for the whole of our time slice.
  for (int spins = 1; finished_.load(std::memory_order_acquire) != parts; ++spins) {
    if (spins % kSpinsPerYield == 0) {
      sched_yield();
    } else {
      Relax();
    }
  }
  if (failed_.load()) std::rethrow_exception(failure_);
}

void Crew::HelperMain() {
  // It only ever does what a caller waits for, and sleeps otherwise.
  const Urgent urgent;
  uint32_t seen = 0;
  while (!stopping_.load()) {
    uint64_t deadline = NowNs() + kSpinNs;
    for (int spins = 0; wake_.load(std::memory_order_acquire) == seen; ++spins) {
      Relax();
      if (spins % kSpinsPerClock != 0 || NowNs() < deadline) continue;
      // The flag is raised before the word is checked again (by wait), and the caller changes the
      // word before it reads the flag: one of the two always sees the other.
      asleep_.store(true);
      wake_.wait(seen);
      asleep_.store(false);
    }
    seen = wake_.load(std::memory_order_acquire);
    while (ClaimAndRun(seen)) {
    }
  }
}

}  // namespace romulus
