// Captures the pages of one block that changed: finds them with a tracker, copies them out of the
// machine into a staging area. This is all that happens inside a pause, so it allocates nothing,
// and its cost follows the pages dirtied, not the memory (but for the walk over the page tables).
//
// Two ways to the bytes: our own mapping of the same memory object (non-temporal vector copies), or
// process_vm_readv where there is none. Two phases, each shared by two threads when it is worth it:
// scan by address range, then copy by page count.
//
// The staging area is reserved once at twice the block's full size, so it can never overflow; only what is
// used takes memory, and Trim gives back what one large capture left.
//
// A `full` capture copies every populated page of a part of the block and begins tracking anew for
// it first, so that what is written meanwhile is dirty later. Holes of mapped memory are skipped:
// they are zero pages. A full capture may run while the machine does: it keeps to one thread of
// ordinary priority. Any other capture is paid by a guest that stands still and goes first.
//
// TakeAhead is a capture of the dirty pages while the machine still runs, one thread of ordinary
// priority, whose pages are kept: the next Take stages after them only what was written since, so a
// pause pays for the last moments alone. It may be repeated (kAheadRounds): a long copy leaves time for
// new writes. A page may then be staged several times; the last copy counts, and since it no byte
// changed, because tracking of the page began anew before it was copied. It needs a tracker that is
// exact while the machine runs.
//
// After a Failure of Take the pages taken from the tracker are known to nobody any more: the next
// capture must be full. Threads: one at a time. Plain C++.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "crew.h"
#include "mapped_memory.h"
#include "staged_pages.h"
#include "tracker.h"

namespace romulus {

struct CaptureStats {
  uint64_t pages = 0;
  uint64_t runs = 0;
  uint64_t scan_ns = 0;
  uint64_t copy_ns = 0;
};

// The arrays behind StagedPages.
class Staging {
 public:
  explicit Staging(uint64_t page_count);
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  ~Staging();

  uint8_t* data() const { return data_; }
  uint32_t* page_index() const { return page_index_; }
  // Gives back the memory of pages beyond those populated at the start.
  void Trim();

 private:
  size_t data_bytes_;
  size_t index_bytes_;
  size_t populated_bytes_;
  uint8_t* data_ = nullptr;
  uint32_t* page_index_ = nullptr;
};

// So often pages may be copied ahead of one pause.
constexpr size_t kAheadRounds = 2;

class Capture {
 public:
  // `memory` may be null. threads: 1 or 2.
  Capture(std::shared_ptr<DirtyTracker> tracker, size_t range, std::shared_ptr<MappedMemory> memory,
          int threads);

  CaptureStats Take(uint32_t first_page, uint32_t page_count, bool full);
  CaptureStats TakeAhead();
  const StagedPages& staged() const { return staged_; }
  // What TakeAhead staged for this Take, in the order of the calls.
  const std::vector<StagedPages>& staged_ahead() const { return staged_ahead_; }
  uint32_t page_count() const { return page_count_; }
  // Pages that wait for a Take stay.
  void Trim() {
    if (!is_ahead_pending_) staging_.Trim();
  }

 private:
  // Without the helper for so long.
  void FindDirty(uint32_t first_page, uint32_t page_count, uint64_t alone_ns, CaptureStats& stats);
  void FindPopulated(uint32_t first_page, uint32_t page_count, CaptureStats& stats);
  void Stage(const PageRuns& runs);
  StagedPages Finish(uint64_t begin_ns, uint64_t found_ns, bool alone, CaptureStats& stats);
  void CopyStaged(bool alone);
  // Through the cache when the pages are encoded right after; past it when a guest waits, whose own
  // working set lies there.
  void CopyMapped(size_t first, size_t end, bool through_cache) const;
  void CopyForeign(size_t first, size_t end) const;

  std::shared_ptr<DirtyTracker> tracker_;
  size_t range_;
  uint32_t page_count_;
  std::shared_ptr<MappedMemory> memory_;
  Staging staging_;
  StagedPages staged_;
  std::vector<StagedPages> staged_ahead_;
  // The list being staged begins here, after what TakeAhead left, and ends there.
  size_t staged_begin_ = 0;
  size_t staged_end_ = 0;
  // TakeAhead's pages wait for a Take.
  bool is_ahead_pending_ = false;
  // The scan before took so long that the next is shared with the helper from its beginning.
  bool is_scan_long_ = false;
  // Found to be data, not a hole, by an earlier part of a full capture. Only that is remembered: a
  // hole may have been filled since, and a page taken for one would be lost.
  DataExtent known_data_{0, 0};
  // Runs found by each part of a scan; kept, so that later scans allocate nothing.
  std::vector<PageRuns> part_runs_;
  Crew crew_;
};

}  // namespace romulus
