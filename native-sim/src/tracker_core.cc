#include "tracker.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <utility>

#include "failure.h"
#include "mapped_memory.h"
#include "staged_pages.h"

namespace romulus {

DirtyTracker::DirtyTracker(pid_t pid, std::vector<TrackedRange> ranges)
    : pid_(pid), ranges_(std::move(ranges)), pending_(new Pending[ranges_.size()]) {
  for (size_t i = 0; i < ranges_.size(); ++i) {
    pending_[i].bits.assign((PageCount(i) + 63) / 64, 0);
    AddPendingRun(i, 0, PageCount(i));
  }
}

uint32_t DirtyTracker::PageCount(size_t range) const {
  return static_cast<uint32_t>(ranges_.at(range).bytes / kPageBytes);
}

void DirtyTracker::CheckPages(size_t range, uint32_t first_page, uint32_t page_count) const {
  if (range >= ranges_.size() || first_page > PageCount(range) ||
      page_count > PageCount(range) - first_page) {
    throw Failure("ERR_USAGE_RANGE",
                  "pages " + std::to_string(first_page) + "+" + std::to_string(page_count) +
                      " lie outside range " + std::to_string(range) + " of the tracker",
                  "Stay within the tracked memory.");
  }
}

void DirtyTracker::AddPending(size_t range, const uint8_t* bitmap) {
  const uint32_t pages = PageCount(range);
  Pending& pending = pending_[range];
  uint64_t added = 0;
  for (uint32_t first = 0; first < pages; first += 64) {
    const uint32_t valid = std::min<uint32_t>(64, pages - first);
    uint64_t word = 0;
    for (uint32_t byte = 0; byte < (valid + 7) / 8; ++byte) {
      word |= uint64_t{bitmap[first / 8 + byte]} << (8 * byte);
    }
    if (valid < 64) word &= (uint64_t{1} << valid) - 1;
    uint64_t& bits = pending.bits[first / 64];
    added += static_cast<uint64_t>(std::popcount(word & ~bits));
    bits |= word;
  }
  pending.count += added;
}

void DirtyTracker::AddPendingRun(size_t range, uint32_t first_page, uint32_t page_count) {
  Pending& pending = pending_[range];
  uint64_t added = 0;
  for (uint32_t page = first_page; page < first_page + page_count;) {
    const uint32_t shift = page % 64;
    const uint32_t here = std::min<uint32_t>(64 - shift, first_page + page_count - page);
    const uint64_t word = (here == 64 ? ~uint64_t{0} : (uint64_t{1} << here) - 1) << shift;
    uint64_t& bits = pending.bits[page / 64];
    added += static_cast<uint64_t>(std::popcount(word & ~bits));
    bits |= word;
    page += here;
  }
  pending.count += added;
}

void DirtyTracker::TakePending(size_t range, uint32_t first_page, uint32_t page_count,
                               PageRuns& runs) {
  Pending& pending = pending_[range];
  uint64_t taken = 0;
  for (uint32_t page = first_page; page < first_page + page_count;) {
    const uint32_t shift = page % 64;
    const uint32_t here = std::min<uint32_t>(64 - shift, first_page + page_count - page);
    const uint64_t mask = (here == 64 ? ~uint64_t{0} : (uint64_t{1} << here) - 1) << shift;
    uint64_t word = pending.bits[page / 64] & mask;
    pending.bits[page / 64] &= ~mask;
    taken += static_cast<uint64_t>(std::popcount(word));
    while (word != 0) {
      const auto low = static_cast<uint32_t>(std::countr_zero(word));
      const auto length = static_cast<uint32_t>(std::countr_one(word >> low));
      AppendRun(runs, page - shift + low, length);
      word = length == 64 ? 0 : word & ~(((uint64_t{1} << length) - 1) << low);
    }
    page += here;
  }
  pending.count -= taken;
}

void DirtyTracker::Forget(size_t range, uint32_t first_page, uint32_t page_count) {
  CheckPages(range, first_page, page_count);
  if (!HasPending(range)) return;
  PageRuns forgotten;
  TakePending(range, first_page, page_count, forgotten);
}

namespace {

void CheckOptions(const TrackerOptions& options) {
  bool valid = !options.ranges.empty() && options.ranges.size() <= kTrackedRangesMax &&
               options.pid >= 0;
  for (const TrackedRange& range : options.ranges) {
    valid = valid && range.address % kPageBytes == 0 && range.bytes != 0 &&
            range.bytes % kPageBytes == 0 && range.bytes <= kMemoryBytesMax &&
            range.address <= UINT64_MAX - range.bytes;
  }
  if (!valid) {
    throw Failure("ERR_USAGE_TRACKER_RANGE", "the ranges to track are not whole pages of memory",
                  "Pass 1 to 64 ranges whose address and size are multiples of 4096.");
  }
}

}  // namespace

std::shared_ptr<DirtyTracker> DirtyTracker::Attach(const TrackerOptions& given) {
  CheckOptions(given);
  TrackerOptions options = given;
  if (options.pid == 0) options.pid = getpid();
  using Kind = std::pair<const char*, std::shared_ptr<DirtyTracker> (*)(const TrackerOptions&)>;
  constexpr Kind kKinds[] = {
      {"uffd-wp", AttachUffd}, {"soft-dirty", AttachSoftDirty}, {"mprotect", AttachMprotect}};
  for (const auto& [name, attach] : kKinds) {
    if (options.kind == name) return attach(options);
  }
  if (options.kind != "auto") {
    throw Failure("ERR_USAGE_TRACKER_KIND", "there is no tracker '" + options.kind + "'",
                  "Choose auto, uffd-wp, soft-dirty or mprotect.");
  }
  std::string causes;
  std::string remedy;
  for (const auto& [name, attach] : kKinds) {
    try {
      return attach(options);
    } catch (const Failure& failure) {
      // A machine that is gone is no reason to try another kind on it.
      if (failure.code() == "ERR_GUEST_LOST") throw;
      causes += (causes.empty() ? "" : "; ") + std::string(name) + ": " + failure.what();
      // The best kind's remedy is the one worth following.
      if (remedy.empty()) remedy = failure.remedy();
    }
  }
  throw Failure("ERR_HOST_TRACKER_NONE", "no way to track this memory works here (" + causes + ")",
                remedy);
}

}  // namespace romulus
