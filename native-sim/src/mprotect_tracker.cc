#include "mprotect_tracker.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "failure.h"
#include "staged_pages.h"

namespace romulus {

namespace {

constexpr size_t kNeighbourhoodPages = 512;  // 2 MiB

// Read by the signal handler, which may not lock: a slot is filled before its region is protected
// and emptied after its region is writable again. `in_handler` keeps a tracker alive until the last
// handler that may have seen its slot has left.
std::atomic<MprotectTracker*> g_regions[kMprotectRegionsMax];
std::atomic<int> g_in_handler{0};
struct sigaction g_previous_action;
std::mutex g_install_mutex;
bool g_installed = false;

void ForwardFault(int signal_number, siginfo_t* info, void* context) {
  if ((g_previous_action.sa_flags & SA_SIGINFO) != 0 && g_previous_action.sa_sigaction != nullptr) {
    g_previous_action.sa_sigaction(signal_number, info, context);
    return;
  }
  if (g_previous_action.sa_handler != SIG_DFL && g_previous_action.sa_handler != SIG_IGN) {
    g_previous_action.sa_handler(signal_number);
    return;
  }
  // Back to the default: the faulting instruction runs again and the process ends as it would have.
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  sigaction(SIGSEGV, &action, nullptr);
}

void OnFault(int signal_number, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  bool handled = false;
  if (info->si_code == SEGV_ACCERR) {
    g_in_handler.fetch_add(1);
    for (auto& slot : g_regions) {
      MprotectTracker* tracker = slot.load();
      if (tracker != nullptr && tracker->OnWriteFault(reinterpret_cast<uintptr_t>(info->si_addr))) {
        handled = true;
        break;
      }
    }
    g_in_handler.fetch_sub(1);
  }
  errno = saved_errno;
  if (!handled) ForwardFault(signal_number, info, context);
}

void InstallHandler() {
  const std::lock_guard<std::mutex> guard(g_install_mutex);
  if (g_installed) return;
  struct sigaction action {};
  action.sa_sigaction = OnFault;
  // On the alternate stack where a thread has one: its own stack may be what is short.
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGSEGV, &action, &g_previous_action) != 0) {
    throw Failure::System("ERR_HOST_TRACKER_MPROTECT", "cannot take the SIGSEGV signal",
                          "Choose another tracker with --tracker.");
  }
  g_installed = true;
}

}  // namespace

MprotectTracker::~MprotectTracker() { Disarm(); }

void MprotectTracker::Lock() {
  while (locked_.exchange(true, std::memory_order_acquire)) sched_yield();
}

void MprotectTracker::Unlock() { locked_.store(false, std::memory_order_release); }

void MprotectTracker::MarkDirty(size_t first_page, size_t page_count) {
  for (size_t page = first_page; page < first_page + page_count; ++page) {
    dirty_[page / 64] |= uint64_t{1} << (page % 64);
  }
}

bool MprotectTracker::Open(size_t first_page, size_t page_count) {
  return mprotect(reinterpret_cast<void*>(base_ + first_page * kPageBytes), page_count * kPageBytes,
                  PROT_READ | PROT_WRITE) == 0;
}

void MprotectTracker::Protect(size_t first_page, size_t page_count) {
  if (mprotect(reinterpret_cast<void*>(base_ + first_page * kPageBytes), page_count * kPageBytes,
               PROT_READ) != 0) {
    throw Failure::System("ERR_HOST_TRACKER_MPROTECT", "cannot write-protect the machine's memory",
                          "Raise vm.max_map_count with sysctl, or choose another tracker.");
  }
}

void MprotectTracker::Arm(void* base, size_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(base);
  if (armed() || bytes == 0 || bytes % kPageBytes != 0 || address % kPageBytes != 0) {
    throw Failure("ERR_USAGE_TRACKER_RANGE", "the range to track is not whole pages",
                  "Track whole pages, and one range with each tracker.");
  }
  InstallHandler();
  page_count_ = bytes / kPageBytes;
  dirty_.assign((page_count_ + 63) / 64, 0);
  first_collect_ = true;
  base_ = address;
  for (auto& slot : g_regions) {
    MprotectTracker* expected = nullptr;
    if (!slot.compare_exchange_strong(expected, this)) continue;
    try {
      Protect(0, page_count_);
    } catch (...) {
      Disarm();
      throw;
    }
    return;
  }
  base_ = 0;
  throw Failure("ERR_LIMIT_TRACKERS",
                "this process already tracks " + std::to_string(kMprotectRegionsMax) + " ranges",
                "Detach a tracker first.");
}

bool MprotectTracker::OnWriteFault(uintptr_t address) {
  const uintptr_t base = base_;
  if (address < base || address >= base + page_count_ * kPageBytes) return false;
  const size_t page = (address - base) / kPageBytes;
  Lock();
  bool opened = true;
  if ((dirty_[page / 64] >> (page % 64) & 1) == 0) {
    opened = Open(page, 1);
    if (opened) {
      MarkDirty(page, 1);
    } else {
      size_t first = page / kNeighbourhoodPages * kNeighbourhoodPages;
      size_t count = std::min(kNeighbourhoodPages, page_count_ - first);
      opened = Open(first, count);
      if (!opened) {
        first = 0;
        count = page_count_;
        opened = Open(first, count);
      }
      if (opened) MarkDirty(first, count);
    }
  }
  Unlock();
  return opened;
}

void MprotectTracker::Collect(uint8_t* bitmap) {
  if (!armed()) {
    throw Failure("ERR_USAGE_CLOSED", "the tracker is not armed", "Arm it before collecting.");
  }
  Lock();
  try {
    // Runs of dirty pages are protected together; neighbours cost one system call.
    size_t page = 0;
    while (page < page_count_) {
      const uint64_t word = dirty_[page / 64] >> (page % 64);
      if (word == 0) {
        page = (page / 64 + 1) * 64;
        continue;
      }
      page += static_cast<size_t>(std::countr_zero(word));
      if (page >= page_count_) break;
      size_t end = page + 1;
      while (end < page_count_ && (dirty_[end / 64] >> (end % 64) & 1) != 0) ++end;
      Protect(page, end - page);
      page = end;
    }
  } catch (...) {
    // Pages protected so far keep their bit, so they would not fault again: open them all, which
    // needs no new mapping entries, and answer for all of them next time.
    Open(0, page_count_);
    MarkDirty(0, page_count_);
    Unlock();
    throw;
  }
  if (first_collect_) {
    std::memset(bitmap, 0xff, BitmapBytes());
    if (page_count_ % 8 != 0) bitmap[BitmapBytes() - 1] = static_cast<uint8_t>((1u << (page_count_ % 8)) - 1);
    first_collect_ = false;
  } else {
    std::memcpy(bitmap, dirty_.data(), BitmapBytes());
  }
  std::fill(dirty_.begin(), dirty_.end(), 0);
  Unlock();
}

void MprotectTracker::Disarm() {
  if (!armed()) return;
  Lock();
  // Opening the whole region adds no mapping entries, so it cannot fail for want of them.
  Open(0, page_count_);
  MarkDirty(0, page_count_);
  Unlock();
  for (auto& slot : g_regions) {
    MprotectTracker* expected = this;
    slot.compare_exchange_strong(expected, nullptr);
  }
  while (g_in_handler.load() != 0) sched_yield();
  base_ = 0;
}

}  // namespace romulus
