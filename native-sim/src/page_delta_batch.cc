#include "page_delta_batch.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "crc32c.h"
#include "failure.h"

namespace romulus {
namespace {

// So many bytes of small pages are collected before their CRC is taken.
constexpr size_t kCrcPieceBytes = 16384;
// Bounds the table's room: a buffer is not half table because all pages might be zero.
constexpr size_t kBytesPerEntryLeast = 64;

template <typename Number>
Number Load(const uint8_t* from) {
  Number number;
  std::memcpy(&number, from, sizeof number);
  return number;
}

template <typename Number>
void Store(uint8_t* to, Number number) {
  std::memcpy(to, &number, sizeof number);
}

[[noreturn]] void Refuse(const std::string& why) {
  throw Failure("ERR_PROTOCOL_PAGE_BATCH", "a page batch is malformed: " + why,
                "Drop the session and synchronise anew; if it happens again, compare the versions "
                "of both nodes.");
}

[[noreturn]] void RefuseEntry(size_t position, const BatchEntry& entry, const char* why) {
  Refuse("entry " + std::to_string(position) + " (page " + std::to_string(entry.page_index) +
         ", encoding " + std::to_string(entry.encoding) + ", " + std::to_string(entry.bytes) +
         " bytes) " + why);
}

}  // namespace

BatchEncoder::BatchEncoder(const PageKernel& kernel, uint16_t block_id, size_t bytes_max)
    : kernel_(kernel), block_id_(block_id), bytes_max_(bytes_max) {}

size_t BatchEncoder::EntriesMax(size_t pages_left) const {
  const size_t by_bytes = std::max<size_t>(bytes_max_ / kBytesPerEntryLeast, 1);
  return std::min({pages_left, kBatchPagesMax, by_bytes});
}

size_t BatchEncoder::BufferBytes(size_t pages_left) const {
  const size_t entries = EntriesMax(pages_left);
  const size_t data = std::min(bytes_max_, entries * kPageBytes);
  return kBatchHeaderBytes + kBatchEntryBytes * entries + data + kEncodeRoomBytes;
}

void BatchEncoder::Begin(uint8_t* buffer, size_t pages_left) {
  entries_max_ = EntriesMax(pages_left);
  pages_ = 0;
  digest_ = 0;
  crc_ = 0;
  buffer_ = buffer;
  data_ = buffer + kBatchHeaderBytes + kBatchEntryBytes * entries_max_;
  data_end_ = data_;
  crc_end_ = data_;
}

bool BatchEncoder::HasRoom() const {
  const size_t bytes = kBatchHeaderBytes + kBatchEntryBytes * (pages_ + 1) +
                       static_cast<size_t>(data_end_ - data_) + kPageBytes;
  return pages_ < entries_max_ && bytes <= bytes_max_;
}

void BatchEncoder::FlushCrc() {
  crc_ = kernel_.crc32c(crc_, crc_end_, static_cast<size_t>(data_end_ - crc_end_));
  crc_end_ = data_end_;
}

void BatchEncoder::Add(uint32_t page_index, const EncodedPage& page) {
  uint8_t* entry = buffer_ + kBatchHeaderBytes + kBatchEntryBytes * pages_;
  Store(entry, page_index);
  Store(entry + 4, page.bytes);
  entry[6] = page.encoding;
  entry[7] = page.run_count;
  pages_ += 1;
  digest_ += PageDigest(page_index, page.summary);
  if (page.encoding == kEncodingRaw) {
    // Its CRC is known already.
    FlushCrc();
    crc_ = Crc32cAppendPage(crc_, page.summary.crc);
    data_end_ += kPageBytes;
    crc_end_ = data_end_;
    return;
  }
  data_end_ += page.bytes;
  if (static_cast<size_t>(data_end_ - crc_end_) >= kCrcPieceBytes) FlushCrc();
}

BatchEncoder::Finished BatchEncoder::Finish() {
  FlushCrc();
  const size_t front_bytes = kBatchHeaderBytes + kBatchEntryBytes * pages_;
  uint8_t* front = data_ - front_bytes;
  std::memmove(front + kBatchHeaderBytes, buffer_ + kBatchHeaderBytes, kBatchEntryBytes * pages_);
  Store(front, static_cast<uint32_t>(pages_));
  Store(front + 4, block_id_);
  Store(front + 6, uint16_t{0});
  Store(front + 8, digest_);
  const auto data_bytes = static_cast<size_t>(data_end_ - data_);
  const uint32_t front_crc = kernel_.crc32c(0, front, front_bytes);
  return {static_cast<size_t>(front - buffer_), front_bytes + data_bytes,
          Crc32cCombine(front_crc, crc_, data_bytes)};
}

BatchEntry EntryOf(const BatchView& view, size_t position) {
  const uint8_t* entry = view.table + kBatchEntryBytes * position;
  return {Load<uint32_t>(entry), Load<uint16_t>(entry + 4), entry[6], entry[7]};
}

BatchView ParseBatch(const PageKernel& kernel, const uint8_t* data, size_t bytes,
                     uint64_t target_pages) {
  if (bytes < kBatchHeaderBytes) {
    Refuse(std::to_string(bytes) + " bytes are too few for its header");
  }
  if (bytes > kBatchBytesMost) {
    Refuse(std::to_string(bytes) + " bytes are more than 8 MiB");
  }
  BatchView view;
  view.pages = Load<uint32_t>(data);
  view.block_id = Load<uint16_t>(data + 4);
  view.digest = Load<uint64_t>(data + 8);
  if (view.pages == 0 || view.pages > kBatchPagesMax) {
    Refuse("it claims " + std::to_string(view.pages) + " pages");
  }
  if (Load<uint16_t>(data + 6) != 0) Refuse("its reserved field is not 0");
  const size_t front_bytes = kBatchHeaderBytes + kBatchEntryBytes * view.pages;
  if (bytes < front_bytes) {
    Refuse(std::to_string(bytes) + " bytes are too few for a table of " +
           std::to_string(view.pages) + " pages");
  }
  view.table = data + kBatchHeaderBytes;
  view.data = data + front_bytes;
  const uint8_t* at = view.data;
  size_t left = bytes - front_bytes;
  uint64_t next_index = 0;
  for (size_t position = 0; position < view.pages; ++position) {
    const BatchEntry entry = EntryOf(view, position);
    if (entry.page_index < next_index) RefuseEntry(position, entry, "does not ascend");
    if (entry.page_index >= target_pages) RefuseEntry(position, entry, "lies outside the block");
    if (entry.bytes > left) RefuseEntry(position, entry, "exceeds the batch");
    if (!kernel.is_valid(entry.encoding, entry.run_count, at, entry.bytes)) {
      RefuseEntry(position, entry, "is not a valid encoding");
    }
    next_index = uint64_t{entry.page_index} + 1;
    at += entry.bytes;
    left -= entry.bytes;
  }
  if (left != 0) Refuse(std::to_string(left) + " bytes follow its last page");
  return view;
}

namespace {

// Pages in a row from which a system call for all of them is cheaper than touching each.
constexpr uint64_t kStretchPagesLeast = 32;

// Whether all pages of a stretch are in memory already. False also where nobody can tell.
bool AreResident(const uint8_t* pages, uint64_t count) {
  constexpr uint64_t kAskedAtOnce = 1024;
  unsigned char resident[kAskedAtOnce];
  for (uint64_t first = 0; first < count; first += kAskedAtOnce) {
    const uint64_t asked = std::min(count - first, kAskedAtOnce);
    auto* start = const_cast<uint8_t*>(pages) + first * kPageBytes;
    if (mincore(start, asked * kPageBytes, resident) != 0) return false;
    const auto is_missing = [](unsigned char state) { return (state & 1) == 0; };
    if (std::any_of(resident, resident + asked, is_missing)) return false;
  }
  return true;
}

// How many pages from `position` on have this encoding and follow one another.
uint64_t StretchOf(const BatchView& view, size_t position, const BatchEntry& first) {
  uint64_t count = 1;
  for (; position + count < view.pages; ++count) {
    const BatchEntry next = EntryOf(view, position + count);
    if (next.encoding != first.encoding || next.page_index != first.page_index + count) break;
  }
  return count;
}

// A base image of deltas against zeros touches every page for the first time: one call for a dense
// stretch costs a fraction of a fault for each. Advice only; refused, the faults come as before.
void PopulateDenseStretch(const BatchView& view, const BatchTarget& target) {
  if (view.pages < kStretchPagesLeast) return;
  const BatchEntry first = EntryOf(view, 0);
  const BatchEntry last = EntryOf(view, view.pages - 1);
  const uint64_t span = uint64_t{last.page_index} - first.page_index + 1;
  if (span > view.pages + view.pages / 8) return;
  const auto is_delta = [](const BatchEntry& entry) {
    return entry.encoding == kEncodingRuns || entry.encoding == kEncodingMask;
  };
  if (!is_delta(first) || !is_delta(last)) return;
#ifdef MADV_POPULATE_WRITE
  uint8_t* start = target.pages + uint64_t{first.page_index} * kPageBytes;
  // Asking takes a fraction of what the kernel needs to find that there is nothing to do.
  if (!AreResident(start, span)) madvise(start, span * kPageBytes, MADV_POPULATE_WRITE);
#endif
}

// Gives a stretch of pages back to the file, which makes them zeros.
bool PunchPages(const BatchTarget& target, uint64_t first, uint64_t count) {
  return fallocate(target.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                   static_cast<off_t>(first * kPageBytes),
                   static_cast<off_t>(count * kPageBytes)) == 0;
}

// Writes a stretch of raw pages through the file. A page that is new to it is then neither cleared
// first nor mapped, which is half of what it costs to touch it. The mapping shows what was written.
bool WritePages(const BatchTarget& target, uint64_t first, uint64_t count, const uint8_t* data) {
  uint64_t at = first * kPageBytes;
  for (uint64_t left = count * kPageBytes; left > 0;) {
    const ssize_t written = pwrite(target.fd, data, left, static_cast<off_t>(at));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    data += written;
    at += static_cast<uint64_t>(written);
    left -= static_cast<uint64_t>(written);
  }
  return true;
}

}  // namespace

void ApplyBatch(const PageKernel& kernel, const BatchView& view, const BatchTarget& target) {
  PopulateDenseStretch(view, target);
  const uint8_t* at = view.data;
  uint64_t digest = 0;
  // Where the file system cannot do it, pages are written through the mapping instead.
  bool may_punch = target.fd >= 0 && !target.keeps_pages;
  bool may_write = target.fd >= 0;
  // Pages before it are known to be in no long stretch.
  size_t looked_until = 0;
  for (size_t position = 0; position < view.pages;) {
    const BatchEntry entry = EntryOf(view, position);
    uint8_t* page = target.pages + uint64_t{entry.page_index} * kPageBytes;
    const bool is_candidate = (entry.encoding == kEncodingZero && may_punch) ||
                              (entry.encoding == kEncodingRaw && may_write);
    if (is_candidate && position >= looked_until) {
      const uint64_t count = StretchOf(view, position, entry);
      looked_until = position + count;
      // Pages that are there already are written twice as fast through the mapping.
      const bool is_worth_it = count >= kStretchPagesLeast && (entry.encoding == kEncodingZero ||
                                                               !AreResident(page, count));
      if (is_worth_it) {
        bool& may_do = entry.encoding == kEncodingZero ? may_punch : may_write;
        may_do = entry.encoding == kEncodingZero
                     ? PunchPages(target, entry.page_index, count)
                     : WritePages(target, entry.page_index, count, at);
        if (may_do) {
          for (uint64_t page = 0; page < count && entry.encoding == kEncodingRaw; ++page) {
            digest += PageDigest(static_cast<uint32_t>(entry.page_index + page),
                                 kernel.summarize(at + page * kPageBytes));
          }
          at += count * entry.bytes;
          position += count;
          continue;
        }
      }
    }
    const bool is_last = position + 1 == view.pages;
    const BatchEntry next = is_last ? entry : EntryOf(view, position + 1);
    const uint8_t* next_page = target.pages + uint64_t{next.page_index} * kPageBytes;
    const PageSummary summary =
        kernel.apply(page, entry.encoding, entry.run_count, at, entry.bytes, next_page);
    digest += PageDigest(entry.page_index, summary);
    at += entry.bytes;
    position += 1;
  }
  if (digest != view.digest) {
    throw Failure("ERR_INTEGRITY_PAGE_DIGEST",
                  "the pages of an applied batch differ from those that the primary has",
                  "Discard this image and synchronise anew; check the hosts' memory if it happens "
                  "again.");
  }
}

}  // namespace romulus
