#include "capture_core.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "copy.h"
#include "heartbeat_ease.h"
#include "priority.h"
#include "failure.h"
#include "fd.h"

namespace romulus {

namespace {

// A part of a scan, small enough to share the work evenly, large enough that walking it (about 20 us
// when populated and clean) outweighs claiming it.
constexpr uint32_t kScanPartPages = 16384;
// A part of a copy. Below twice this many pages the copy stays in one thread.
constexpr size_t kCopyPartPages = 64;
// A copy of fewer pages after one ahead takes less than a device state.
constexpr size_t kLightCopyPages = 1024;
// About what a device state takes: a scan that is not done by then is what the machine waits for.
constexpr uint64_t kLightScanNs = 800'000;
constexpr uint64_t kForeverNs = UINT64_MAX;
// From here on a copy takes some milliseconds of every CPU, and as many more as the host is slow.
constexpr size_t kLongCopyPages = 8192;
constexpr size_t kPagemapEntriesPerRead = 8192;
constexpr uint64_t kPagemapPresent = uint64_t{1} << 63;
constexpr uint64_t kPagemapSwapped = uint64_t{1} << 62;
// A hole that is write-protected has a marker in the page table, which pagemap shows as a page in a
// swap area that cannot exist (SWP_PTE_MARKER and PTE_MARKER_UFFD_WP in include/linux/swapops.h).
// Without CAP_SYS_ADMIN the place is hidden, and a hole counts as populated: it is copied as zeros.
constexpr uint64_t kPagemapSwapPlace = (uint64_t{1} << 55) - 1;
constexpr uint64_t kPagemapMarkedHole = 31 | (uint64_t{1} << 5);

// Where pages lie, for one call to the kernel: neighbours are one piece.
template <size_t pages_max>
class Pieces {
 public:
  void AddPage(uint8_t* page) {
    if (count_ > 0 && End(pieces_[count_ - 1]) == page) {
      pieces_[count_ - 1].iov_len += kPageBytes;
    } else {
      pieces_[count_++] = {page, kPageBytes};
    }
  }
  const iovec* data() const { return pieces_; }
  size_t size() const { return count_; }

 private:
  static uint8_t* End(const iovec& piece) {
    return static_cast<uint8_t*>(piece.iov_base) + piece.iov_len;
  }

  iovec pieces_[pages_max];
  size_t count_ = 0;
};

uint64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

bool IsPopulated(uint64_t pagemap_entry) {
  if ((pagemap_entry & kPagemapPresent) != 0) return true;
  return (pagemap_entry & kPagemapSwapped) != 0 &&
         (pagemap_entry & kPagemapSwapPlace) != kPagemapMarkedHole;
}

}  // namespace

Capture::Capture(std::shared_ptr<DirtyTracker> tracker, size_t range,
                 std::shared_ptr<MappedMemory> memory, int threads)
    : tracker_(std::move(tracker)),
      range_(range),
      page_count_(range < tracker_->ranges().size() ? tracker_->PageCount(range) : 0),
      memory_(std::move(memory)),
      staging_(std::max<uint64_t>(page_count_, 1)),
      crew_(threads) {
  if (page_count_ == 0) {
    throw Failure("ERR_USAGE_RANGE", "the tracker has no block " + std::to_string(range),
                  "Capture a block that is tracked.");
  }
  if (memory_ && memory_->bytes() != tracker_->ranges()[range].bytes) {
    throw Failure("ERR_USAGE_MEMORY_SIZE",
                  "the mapped memory and the tracked block differ in size",
                  "Map the block's own memory object at its full size.");
  }
  part_runs_.resize((page_count_ + kScanPartPages - 1) / kScanPartPages + 1);
}

CaptureStats Capture::Take(uint32_t first_page, uint32_t page_count, bool full) {
  if (first_page > page_count_ || page_count > page_count_ - first_page) {
    throw Failure("ERR_USAGE_RANGE",
                  "pages " + std::to_string(first_page) + "+" + std::to_string(page_count) +
                      " lie outside a block of " + std::to_string(page_count_) + " pages",
                  "Stay within the block.");
  }
  if (!full) CheckWhole();
  CaptureStats stats;
  is_broken_ = true;
  is_taken_ = false;
  if (full || !is_ahead_pending_) {
    is_ahead_pending_ = false;
    staging_.Clear();
  }
  staging_.BeginRound(Staging::Round::kLast);
  // A full capture runs beside the guest and must not be urgent, so it does without the helper too.
  std::optional<Urgent> urgent;
  if (!full) urgent.emplace();
  const uint64_t begin = NowNs();
  // With most pages copied ahead little is left to do, and on a small host the machine's own thread
  // that saves the device state meanwhile needs the other core more than a helper of ours does.
  const bool light = is_ahead_pending_;
  const bool helped = !light || is_scan_long_;
  if (full) {
    FindPopulated(first_page, page_count, stats);
  } else {
    FindDirty(first_page, page_count, helped ? 0 : kLightScanNs, stats);
    is_scan_long_ = NowNs() - begin > (helped ? kLightScanNs / 2 : kLightScanNs);
  }
  tracker_->CheckAlive();
  const bool alone = full || (light && staging_.round_pages() < kLightCopyPages);
  Finish(begin, NowNs(), alone, stats);
  is_ahead_pending_ = false;
  is_taken_ = true;
  is_broken_ = false;
  return stats;
}

CaptureStats Capture::TakeAhead() {
  CaptureStats stats;
  if (!tracker_->exact_while_running()) return stats;
  CheckWhole();
  is_broken_ = true;
  is_taken_ = false;
  // Pages that no pause followed are still nobody's: they stay.
  if (!is_ahead_pending_) staging_.Clear();
  staging_.BeginRound(Staging::Round::kMoreFollow);
  const uint64_t begin = NowNs();
  FindDirty(0, page_count_, kForeverNs, stats);
  Finish(begin, NowNs(), true, stats);
  staging_.Arrange();
  is_ahead_pending_ = true;
  is_broken_ = false;
  return stats;
}

void Capture::CheckWhole() const {
  if (!is_broken_) return;
  throw Failure("ERR_INTERNAL_STAGED_PAGES",
                "the capture before failed, so which pages are dirty is not known any more",
                "This is a defect in Romulus: please report it.");
}

StagedPages Capture::staged() { return is_taken_ ? staging_.All() : StagedPages{}; }

void Capture::Trim() {
  if (is_ahead_pending_) return;
  is_taken_ = false;
  staging_.Clear();
  staging_.Trim();
}

void Capture::Finish(uint64_t begin_ns, uint64_t found_ns, bool alone, CaptureStats& stats) {
  CopyRound(alone);
  stats.pages = staging_.round_pages();
  stats.scan_ns = found_ns - begin_ns;
  stats.copy_ns = NowNs() - found_ns;
}

void Capture::FindDirty(uint32_t first_page, uint32_t page_count, uint64_t alone_ns,
                        CaptureStats& stats) {
  const uint64_t begin = NowNs();
  tracker_->Refresh();
  // Parts begin at multiples of their size, so two threads never share a word of the tracker's books.
  const uint32_t first_part = first_page / kScanPartPages;
  const uint32_t end_page = first_page + page_count;
  const uint32_t parts =
      page_count == 0 ? 0 : (end_page + kScanPartPages - 1) / kScanPartPages - first_part;
  const auto scan = [&](uint32_t part) {
    const uint32_t from = std::max(first_page, (first_part + part) * kScanPartPages);
    const uint32_t to = std::min<uint64_t>(end_page, uint64_t{first_part + part + 1} * kScanPartPages);
    part_runs_[part].clear();
    tracker_->Take(range_, from, to - from, part_runs_[part]);
  };
  const bool concurrent = tracker_->concurrent();
  uint32_t done = 0;
  while (done < parts && (!concurrent || NowNs() - begin < alone_ns)) scan(done++);
  crew_.Run(parts - done, [&](uint32_t part) { scan(done + part); });
  for (uint32_t part = 0; part < parts; ++part) {
    stats.runs += part_runs_[part].size();
    Stage(part_runs_[part]);
  }
}

void Capture::FindPopulated(uint32_t first_page, uint32_t page_count, CaptureStats& stats) {
  PageRuns runs;
  if (tracker_->exact_while_running()) {
    // Begins anew before the copy: a page written after this line is dirty in the next capture.
    tracker_->Refresh();
    tracker_->Take(range_, first_page, page_count, runs);
    runs.clear();
  } else {
    tracker_->Forget(range_, first_page, page_count);
  }
  const uint64_t first_byte = uint64_t{first_page} * kPageBytes;
  const uint64_t end_byte = first_byte + uint64_t{page_count} * kPageBytes;
  if (memory_) {
    for (uint64_t at = first_byte; at < end_byte;) {
      if (at < known_data_.begin || at >= known_data_.end) {
        known_data_ = NextDataExtent(memory_->fd(), at, end_byte, memory_->bytes());
      }
      const uint64_t begin = std::max(at, known_data_.begin);
      const uint64_t end = std::min(end_byte, known_data_.end);
      if (begin >= end_byte) break;
      AppendRun(runs, static_cast<uint32_t>(begin / kPageBytes),
                static_cast<uint32_t>((end - begin) / kPageBytes));
      at = end;
    }
  } else {
    // A page that the process has neither in memory nor in swap is a hole of anonymous memory; of
    // shared memory it may be populated all the same, but then it is mapped by us (see Capture.ts).
    const std::string path = "/proc/" + std::to_string(tracker_->pid()) + "/pagemap";
    const Fd pagemap(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    std::vector<uint64_t> entries(kPagemapEntriesPerRead);
    const uint64_t base = tracker_->ranges()[range_].address / kPageBytes;
    for (uint32_t page = first_page; page < first_page + page_count;) {
      const size_t wanted =
          std::min<size_t>(entries.size(), first_page + page_count - page) * sizeof(uint64_t);
      const ssize_t got = pread(pagemap.get(), entries.data(), wanted,
                                static_cast<off_t>((base + page) * sizeof(uint64_t)));
      if (got < 0 && errno == EINTR) continue;
      if (got < static_cast<ssize_t>(sizeof(uint64_t))) {
        throw Failure::System("ERR_GUEST_LOST", "cannot read " + path,
                              "See that the machine still runs; protect it again.",
                              got < 0 ? errno : ESRCH);
      }
      const auto count = static_cast<uint32_t>(static_cast<size_t>(got) / sizeof(uint64_t));
      for (uint32_t i = 0; i < count; ++i) {
        if (IsPopulated(entries[i])) AppendRun(runs, page + i, 1);
      }
      page += count;
    }
  }
  stats.runs = runs.size();
  Stage(runs);
}

void Capture::Stage(const PageRuns& runs) {
  for (const PageRun& run : runs) {
    const uint32_t end = run.first_page + run.page_count;
    for (uint32_t page = run.first_page; page < end; ++page) staging_.Add(page);
  }
}

void Capture::CopyRound(bool alone) {
  const size_t count = staging_.round_pages();
  if (count >= kLongCopyPages) CallUpHeartbeat();
  const auto parts = static_cast<uint32_t>((count + kCopyPartPages - 1) / kCopyPartPages);
  const auto copy = [this, alone, count](uint32_t part) {
    const size_t first = size_t{part} * kCopyPartPages;
    const size_t end = std::min(count, first + kCopyPartPages);
    if (memory_) {
      CopyMapped(first, end, alone);
    } else {
      CopyForeign(first, end);
    }
  };
  if (alone) {
    for (uint32_t part = 0; part < parts; ++part) copy(part);
  } else {
    crew_.Run(parts, copy);
  }
}

void Capture::CopyMapped(size_t first, size_t end, bool through_cache) const {
  for (size_t i = first; i < end; ++i) {
    const size_t slot = staging_.SlotAt(i);
    const uint8_t* page = memory_->data() + size_t{staging_.PageIn(slot)} * kPageBytes;
    if (through_cache) {
      std::memcpy(staging_.Bytes(slot), page, kPageBytes);
    } else {
      CopyPage(staging_.Bytes(slot), page);
    }
  }
  CopyFence();
}

void Capture::CopyForeign(size_t first, size_t end) const {
  const uint64_t base = tracker_->ranges()[range_].address;
  Pieces<kCopyPartPages> remote;
  Pieces<kCopyPartPages> local;
  for (size_t i = first; i < end; ++i) {
    const size_t slot = staging_.SlotAt(i);
    remote.AddPage(reinterpret_cast<uint8_t*>(base + uint64_t{staging_.PageIn(slot)} * kPageBytes));
    local.AddPage(staging_.Bytes(slot));
  }
  const ssize_t got = process_vm_readv(tracker_->pid(), local.data(), local.size(),
                                       remote.data(), remote.size(), 0);
  if (got != static_cast<ssize_t>((end - first) * kPageBytes)) {
    const int error_number = got < 0 ? errno : EFAULT;
    throw Failure::System(error_number == ESRCH ? "ERR_GUEST_LOST" : "ERR_HOST_CAPTURE_READ",
                          "cannot read the memory of process " + std::to_string(tracker_->pid()),
                          error_number == EPERM
                              ? "Run Romulus as root or as the machine's user with ptrace rights."
                              : "See that the machine still runs; protect it again.",
                          error_number);
  }
}

}  // namespace romulus
