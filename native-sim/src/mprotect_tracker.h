// Dirty tracking for any Linux kernel, of memory of this very process: pages are write-protected,
// the first write to one raises SIGSEGV, the handler notes the page and lets the write happen.
// About ten times the cost per first write of the kernel's own tracking (a signal and an mprotect);
// what it needs is nothing. Plain C++, no N-API: the simulated machine compiles it in.
//
// What it cannot see: writes by the kernel on behalf of a system call (read(2) into tracked memory
// fails with EFAULT instead) and writes through another mapping of the same memory object.
//
// Bounds: every scattered dirty page costs a mapping entry of the kernel (vm.max_map_count, 65530
// by default). When they run out a 2 MiB neighbourhood, and at last the whole region, is opened and
// reported as dirty at once: the answer may then hold too many pages, never too few.
//
// Threads: writers may run in any threads. Arm, Collect and Disarm come from one thread at a time,
// which must not write to the region meanwhile and whose bitmap must not lie in it. The SIGSEGV
// handler is process-wide; faults elsewhere go on to the handler that was there before.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace romulus {

// How many regions one process can track at the same time.
constexpr size_t kMprotectRegionsMax = 16;

class MprotectTracker {
 public:
  MprotectTracker() = default;
  MprotectTracker(const MprotectTracker&) = delete;
  MprotectTracker& operator=(const MprotectTracker&) = delete;
  ~MprotectTracker();

  // Starts tracking [base, base + bytes), both multiples of the page size, readable and writable.
  // Throws Failure; after that nothing is tracked.
  void Arm(void* base, size_t bytes);

  // Copies out the pages written since the last Collect, one bit each, lowest bit first
  // (BitmapBytes() bytes, unused bits 0), and protects them again. The first Collect after Arm
  // answers all ones: what was before is not known.
  void Collect(uint8_t* bitmap);

  // Makes the region plainly writable again. Idempotent.
  void Disarm();

  bool armed() const { return base_ != 0; }
  size_t page_count() const { return page_count_; }
  size_t BitmapBytes() const { return (page_count_ + 7) / 8; }

  // For the signal handler only: true when the fault was ours and the write may be tried again.
  // Async-signal-safe: touches only memory allocated by Arm and makes plain system calls.
  bool OnWriteFault(uintptr_t address);

 private:
  void Lock();
  void Unlock();
  void MarkDirty(size_t first_page, size_t page_count);
  bool Open(size_t first_page, size_t page_count);
  void Protect(size_t first_page, size_t page_count);

  uintptr_t base_ = 0;
  size_t page_count_ = 0;
  bool first_collect_ = true;
  // Guards `dirty_` together with the protection of the pages: without it a page could be opened
  // after its bit was collected and before it is protected again, and a write would be lost.
  std::atomic<bool> locked_{false};
  std::vector<uint64_t> dirty_;
};

}  // namespace romulus
