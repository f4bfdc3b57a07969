// Dirty tracking of ranges of memory, of this process or of another: which pages were written since
// they were last taken. One interface, several kinds:
//
//   uffd-wp     userfaultfd WP_ASYNC + PAGEMAP_SCAN (Linux >= 6.7). Any process, any writer in it,
//               also KVM and system calls. The writer never waits for us.
//   soft-dirty  clear_refs + pagemap bit 55 (CONFIG_MEM_SOFT_DIRTY). The bits are the whole
//               process's, and reading and clearing are two steps: exact only while it is stopped.
//   mprotect    this process itself, or a simulated machine that answers on its tracker socket.
//
// Until a page was taken for the first time it counts as dirty: what came before is not known.
// Not seen by any kind: writes through other mappings of a shared memory, and DMA of assigned devices.
//
// Ownership: a tracker owns its descriptors; Detach (or the destructor) leaves the process as it was
// found. Threads: Attach, Refresh and Detach in one thread at a time; Take of disjoint ranges may run
// in several threads when concurrent() says so. Plain C++.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace romulus {

constexpr size_t kTrackedRangesMax = 64;

struct PageRun {
  uint32_t first_page;
  uint32_t page_count;
};
using PageRuns = std::vector<PageRun>;

// Appends a run, joining it to the last one where they touch.
inline void AppendRun(PageRuns& runs, uint32_t first_page, uint32_t page_count) {
  if (!runs.empty() && runs.back().first_page + runs.back().page_count == first_page) {
    runs.back().page_count += page_count;
  } else {
    runs.push_back({first_page, page_count});
  }
}

struct TrackedRange {
  uint64_t address;
  uint64_t bytes;
};

struct TrackerOptions {
  pid_t pid = 0;  // 0: this process
  std::vector<TrackedRange> ranges;
  std::string kind = "auto";
  std::string mprotect_socket;  // of a simulated machine; empty: none
};

class DirtyTracker {
 public:
  // Throws Failure: ERR_HOST_TRACKER_* or ERR_HOST_ATTACH_*. With "auto" the failure names why each
  // kind was impossible.
  static std::shared_ptr<DirtyTracker> Attach(const TrackerOptions& options);

  virtual ~DirtyTracker() = default;
  DirtyTracker(const DirtyTracker&) = delete;
  DirtyTracker& operator=(const DirtyTracker&) = delete;

  virtual const char* kind() const = 0;
  // Whether pages may be taken while the writers run, without losing a write.
  virtual bool exact_while_running() const = 0;
  virtual bool concurrent() const { return false; }
  pid_t pid() const { return pid_; }
  const std::vector<TrackedRange>& ranges() const { return ranges_; }
  uint32_t PageCount(size_t range) const;

  // Fetches what the kind can only fetch for all ranges at once. Call it before each round of Take.
  virtual void Refresh() {}

  // Appends to `runs`, ascending, the dirty pages of [first_page, first_page + page_count) of a range
  // and begins anew for them. Throws ERR_GUEST_LOST when the process is gone.
  virtual void Take(size_t range, uint32_t first_page, uint32_t page_count, PageRuns& runs) = 0;

  // Forgets what was fetched earlier for these pages, because their content is about to be copied.
  void Forget(size_t range, uint32_t first_page, uint32_t page_count);

  // Throws ERR_GUEST_LOST when the tracked process has ended.
  virtual void CheckAlive() const {}

  // Ends tracking. Idempotent.
  virtual void Detach() = 0;

 protected:
  DirtyTracker(pid_t pid, std::vector<TrackedRange> ranges);

  bool HasPending(size_t range) const { return pending_[range].count.load() != 0; }
  // A bitmap of the whole range, one bit each, lowest first.
  void AddPending(size_t range, const uint8_t* bitmap);
  void AddPendingRun(size_t range, uint32_t first_page, uint32_t page_count);
  void TakePending(size_t range, uint32_t first_page, uint32_t page_count, PageRuns& runs);
  void CheckPages(size_t range, uint32_t first_page, uint32_t page_count) const;

 private:
  // Pages known to be dirty and not yet taken. Callers in several threads stay 64 pages apart.
  struct Pending {
    std::vector<uint64_t> bits;
    std::atomic<uint64_t> count{0};
  };
  pid_t pid_;
  std::vector<TrackedRange> ranges_;
  std::unique_ptr<Pending[]> pending_;
};

std::shared_ptr<DirtyTracker> AttachUffd(const TrackerOptions& options);
std::shared_ptr<DirtyTracker> AttachSoftDirty(const TrackerOptions& options);
std::shared_ptr<DirtyTracker> AttachMprotect(const TrackerOptions& options);

// Whether a page of this process that was just written shows its soft-dirty bit.
bool HasSoftDirty();

}  // namespace romulus
