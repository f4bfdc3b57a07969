// The page that an engine shares with its guardian: what the guardian must know when the engine is
// dead or frozen and can be asked nothing. The layout is a contract with
// src/native/guardian-link.ts.
//
//     byte  0  u32  stopped: 1 while the machine stands at the engine's wish and needs a `cont`
//           4  u32  runs alone: 1 while the register says that this copy may run unpaired
//           8  u32  filters: objects romulus-nf0, romulus-nf1, ... that hold the machine's output
//          16  u64  held since: when QEMU was last held up for a pause, by the engine's clock, from before
//                   it is asked until it has answered; 0 between pauses (qmp_pause.cc)
//          64  u64  beats: milliseconds of CLOCK_MONOTONIC, one word for each thread that is watched;
//                   0 until it beats
#pragma once

#include <cstddef>
#include <cstdint>

namespace romulus {

constexpr size_t kGuardianPageBytes = 4096;
constexpr size_t kRunsAloneWord = 1;
constexpr size_t kFiltersWord = 2;
// In 64-bit words.
constexpr size_t kHeldSinceWord = 2;
constexpr size_t kBeatsFirst = 8;
constexpr size_t kBeatsEnd = 64;
constexpr uint32_t kFiltersMax = 64;

// Read-only view; the engine writes at any time.
class GuardianPage {
 public:
  explicit GuardianPage(const void* address) : address_(address) {}

  bool IsStopped() const { return Word(0) != 0; }
  bool RunsAlone() const { return Word(kRunsAloneWord) != 0; }
  uint32_t Filters() const {
    const uint32_t count = Word(kFiltersWord);
    return count < kFiltersMax ? count : kFiltersMax;
  }
  uint64_t HeldSince() const {
    return __atomic_load_n(static_cast<const uint64_t*>(address_) + kHeldSinceWord,
                           __ATOMIC_SEQ_CST);
  }
  int64_t BeatMs(size_t word) const {
    return __atomic_load_n(static_cast<const int64_t*>(address_) + word, __ATOMIC_SEQ_CST);
  }

 private:
  uint32_t Word(size_t index) const {
    return __atomic_load_n(static_cast<const uint32_t*>(address_) + index, __ATOMIC_SEQ_CST);
  }

  const void* address_;
};

}  // namespace romulus
