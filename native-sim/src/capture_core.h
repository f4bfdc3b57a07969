// Captures the pages of one block that changed: finds them with a tracker, copies them out of the
// machine into a staging area. This is all that happens inside a pause, so it allocates nothing,
// and its cost follows the pages dirtied, not the memory (but for the walk over the page tables).
//
// Two ways to the bytes: our own mapping of the same memory object (non-temporal vector copies), or
// process_vm_readv where there is none. Two phases, each shared by two threads when it is worth it:
// scan by address range, then copy by page count.
//
// A `full` capture copies every populated page of a part of the block and begins tracking anew for
// it first, so that what is written meanwhile is dirty later. Holes of mapped memory are skipped:
// they are zero pages. A full capture may run while the machine does: it keeps to one thread of
// ordinary priority. Any other capture is paid by a guest that stands still and goes first.
//
// TakeAhead is a capture of the dirty pages while the machine still runs, one thread of ordinary
// priority, whose pages are kept: the next Take copies only what was written since, so a pause pays for
// the last moments alone. It may be repeated: a long copy leaves time for new writes. A page that was
// written again is copied over in place. Its last copy is true, because tracking of the page began anew
// before it was copied. It needs a tracker that is exact while the machine runs.
//
// After a Failure of either the pages taken from the tracker are known to nobody any more: the next
// capture must be full, and any other is refused. Threads: one at a time. Plain C++.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "crew.h"
#include "mapped_memory.h"
#include "staged_pages.h"
#include "staging.h"
#include "tracker.h"

namespace romulus {

struct CaptureStats {
  uint64_t pages = 0;
  uint64_t runs = 0;
  uint64_t scan_ns = 0;
  uint64_t copy_ns = 0;
};

class Capture {
 public:
  // `memory` may be null. threads: 1 or 2.
  Capture(std::shared_ptr<DirtyTracker> tracker, size_t range, std::shared_ptr<MappedMemory> memory,
          int threads);

  CaptureStats Take(uint32_t first_page, uint32_t page_count, bool full);
  CaptureStats TakeAhead();
  // What the last Take staged, with all that was copied ahead of it; nothing before there was one. Until
  // the next Take or TakeAhead.
  StagedPages staged();
  uint32_t page_count() const { return page_count_; }
  // What is staged is gone, but for pages that wait for a Take.
  void Trim();

 private:
  // Without the helper for so long.
  void FindDirty(uint32_t first_page, uint32_t page_count, uint64_t alone_ns, CaptureStats& stats);
  void FindPopulated(uint32_t first_page, uint32_t page_count, CaptureStats& stats);
  void Stage(const PageRuns& runs);
  // Throws ERR_INTERNAL_STAGED_PAGES after a failure.
  void CheckWhole() const;
  void Finish(uint64_t begin_ns, uint64_t found_ns, bool alone, CaptureStats& stats);
  void CopyRound(bool alone);
  // Positions in the round. Through the cache when the pages are encoded right after; past it when a
  // guest waits, whose own working set lies there.
  void CopyMapped(size_t first, size_t end, bool through_cache) const;
  void CopyForeign(size_t first, size_t end) const;

  std::shared_ptr<DirtyTracker> tracker_;
  size_t range_;
  uint32_t page_count_;
  std::shared_ptr<MappedMemory> memory_;
  Staging staging_;
  // TakeAhead's pages wait for a Take.
  bool is_ahead_pending_ = false;
  // What is staged is as the machine was.
  bool is_taken_ = false;
  // A capture failed: only a full one makes good what it took from the tracker.
  bool is_broken_ = false;
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
