#include "capture_core.h"

#include <fcntl.h>
#include <sys/mman.h>
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

constexpr size_t kPopulatedBytesMax = size_t{64} << 20;
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

size_t WholePages(size_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes; }

uint8_t* Reserve(size_t bytes) {
  void* area = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == MAP_FAILED) {
    throw Failure::System("ERR_LIMIT_MEMORY",
                          "cannot reserve " + std::to_string(bytes) + " bytes to stage pages in",
                          "Raise the limit of address space (ulimit -v), or vm.overcommit_memory.");
  }
  return static_cast<uint8_t*>(area);
}

}  // namespace

Staging::Staging(uint64_t page_count)
    : data_bytes_(page_count * kPageBytes),
      index_bytes_(WholePages(page_count * sizeof(uint32_t))),
      populated_bytes_(std::min(data_bytes_, kPopulatedBytesMax)) {
  data_ = Reserve(data_bytes_);
  try {
    page_index_ = reinterpret_cast<uint32_t*>(Reserve(index_bytes_));
  } catch (...) {
    munmap(data_, data_bytes_);
    throw;
  }
  // Huge pages spare the non-temporal stores most of their TLB misses. Where there are none,
  // everything still works.
  madvise(data_, data_bytes_, MADV_HUGEPAGE);
  for (size_t i = 0; i < populated_bytes_; i += kPageBytes) data_[i] = 1;
  for (size_t i = 0; i < std::min(index_bytes_, populated_bytes_ / 1024); i += kPageBytes) {
    page_index_[i / sizeof(uint32_t)] = 1;
  }
}

Staging::~Staging() {
  munmap(data_, data_bytes_);
  munmap(page_index_, index_bytes_);
}

void Staging::Trim() {
  if (data_bytes_ > populated_bytes_) {
    madvise(data_ + populated_bytes_, data_bytes_ - populated_bytes_, MADV_DONTNEED);
  }
}

Capture::Capture(std::shared_ptr<DirtyTracker> tracker, size_t range,
                 std::shared_ptr<MappedMemory> memory, int threads)
    : tracker_(std::move(tracker)),
      range_(range),
      page_count_(range < tracker_->ranges().size() ? tracker_->PageCount(range) : 0),
      memory_(std::move(memory)),
      // Every page may be staged in each list.
      staging_((kAheadRounds + 1) * std::max<uint64_t>(page_count_, 1)),
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
  staged_ahead_.reserve(kAheadRounds);
  part_runs_.resize((page_count_ + kScanPartPages - 1) / kScanPartPages + 1);
}

CaptureStats Capture::Take(uint32_t first_page, uint32_t page_count, bool full) {
  if (first_page > page_count_ || page_count > page_count_ - first_page) {
    throw Failure("ERR_USAGE_RANGE",
                  "pages " + std::to_string(first_page) + "+" + std::to_string(page_count) +
                      " lie outside a block of " + std::to_string(page_count_) + " pages",
                  "Stay within the block.");
  }
  CaptureStats stats;
  staged_ = StagedPages{};
  if (full || !is_ahead_pending_) {
    staged_ahead_.clear();
    is_ahead_pending_ = false;
    staged_end_ = 0;
  }
  staged_begin_ = staged_end_;
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
  const bool alone = full || (light && staged_end_ - staged_begin_ < kLightCopyPages);
  staged_ = Finish(begin, NowNs(), alone, stats);
  is_ahead_pending_ = false;
  return stats;
}

CaptureStats Capture::TakeAhead() {
  CaptureStats stats;
  if (!tracker_->exact_while_running()) return stats;
  if (!is_ahead_pending_) {
    staged_ = StagedPages{};
    staged_ahead_.clear();
    staged_end_ = 0;
  }
  // Pages that no pause followed are still nobody's: they stay.
  if (staged_ahead_.size() == kAheadRounds) return stats;
  staged_begin_ = staged_end_;
  const uint64_t begin = NowNs();
  FindDirty(0, page_count_, kForeverNs, stats);
  staged_ahead_.push_back(Finish(begin, NowNs(), true, stats));
  is_ahead_pending_ = true;
  return stats;
}

StagedPages Capture::Finish(uint64_t begin_ns, uint64_t found_ns, bool alone, CaptureStats& stats) {
  CopyStaged(alone);
  const StagedPages staged{staging_.page_index() + staged_begin_,
                           staging_.data() + staged_begin_ * kPageBytes,
                           staged_end_ - staged_begin_};
  stats.pages = staged.count;
  stats.scan_ns = found_ns - begin_ns;
  stats.copy_ns = NowNs() - found_ns;
  return staged;
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
  uint32_t* next = staging_.page_index() + staged_end_;
  for (const PageRun& run : runs) {
    for (uint32_t page = run.first_page; page < run.first_page + run.page_count; ++page) {
      *next++ = page;
    }
    staged_end_ += run.page_count;
  }
}

void Capture::CopyStaged(bool alone) {
  const size_t count = staged_end_ - staged_begin_;
  if (count >= kLongCopyPages) CallUpHeartbeat();
  const auto parts = static_cast<uint32_t>((count + kCopyPartPages - 1) / kCopyPartPages);
  const auto copy = [this, alone](uint32_t part) {
    const size_t first = staged_begin_ + size_t{part} * kCopyPartPages;
    const size_t end = std::min(staged_end_, first + kCopyPartPages);
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
  const uint32_t* index = staging_.page_index();
  for (size_t i = first; i < end; ++i) {
    uint8_t* staged = staging_.data() + i * kPageBytes;
    const uint8_t* page = memory_->data() + size_t{index[i]} * kPageBytes;
    if (through_cache) {
      std::memcpy(staged, page, kPageBytes);
    } else {
      CopyPage(staged, page);
    }
  }
  CopyFence();
}

void Capture::CopyForeign(size_t first, size_t end) const {
  const uint32_t* index = staging_.page_index();
  const uint64_t base = tracker_->ranges()[range_].address;
  iovec remote[kCopyPartPages];
  size_t pieces = 0;
  for (size_t i = first; i < end; ++i) {
    const uint64_t address = base + uint64_t{index[i]} * kPageBytes;
    if (pieces > 0 && reinterpret_cast<uint64_t>(remote[pieces - 1].iov_base) +
                              remote[pieces - 1].iov_len ==
                          address) {
      remote[pieces - 1].iov_len += kPageBytes;
    } else {
      remote[pieces++] = {reinterpret_cast<void*>(address), kPageBytes};
    }
  }
  const iovec local = {staging_.data() + first * kPageBytes, (end - first) * kPageBytes};
  const ssize_t got = process_vm_readv(tracker_->pid(), &local, 1, remote, pieces, 0);
  if (got != static_cast<ssize_t>(local.iov_len)) {
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
