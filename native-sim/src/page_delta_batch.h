// Page batches: the payload of `pages` and `baseImage` frames, byte by byte as docs/ARCHITECTURE.md
// says. BatchEncoder builds them, ParseBatch checks one as a whole, ApplyBatch writes it into
// memory.
//
// Plain C++, no locks: one thread at a time per object.
#pragma once

#include <cstddef>
#include <cstdint>

#include "page_delta.h"

namespace romulus {

constexpr size_t kBatchHeaderBytes = 16;
constexpr size_t kBatchEntryBytes = 8;
constexpr size_t kBatchPagesMax = 65536;
// The smallest bound on a batch that still holds one raw page, and the largest that a frame takes.
constexpr size_t kBatchBytesLeast = kBatchHeaderBytes + kBatchEntryBytes + kPageBytes;
constexpr size_t kBatchBytesMost = size_t{8} << 20;

// Builds one batch after another, each in a buffer that the caller provides.
//
// The table stands before the data but its length is known last. So the data is encoded at a fixed
// place, behind room for the longest table, and header and table are put right before it at the
// end: nothing but the table is ever copied.
class BatchEncoder {
 public:
  struct Finished {
    size_t offset;  // of the batch in the buffer
    size_t bytes;
    uint32_t crc;  // CRC32C of the whole batch
  };

  BatchEncoder(const PageKernel& kernel, uint16_t block_id, size_t bytes_max);

  // What a buffer must hold when at most `pages_left` pages are still to come.
  size_t BufferBytes(size_t pages_left) const;
  // Starts a batch. The buffer stays the caller's and must live until Finish().
  void Begin(uint8_t* buffer, size_t pages_left);
  // Whether any page, even a raw one, still fits.
  bool HasRoom() const;
  // Where a kernel may encode the next page: kEncodeRoomBytes long.
  uint8_t* room() const { return data_end_; }
  // Takes up what a kernel encoded at room(). Indexes must ascend.
  void Add(uint32_t page_index, const EncodedPage& page);
  size_t pages() const { return pages_; }
  // Completes the batch, which must have a page.
  Finished Finish();

 private:
  size_t EntriesMax(size_t pages_left) const;
  void FlushCrc();

  const PageKernel& kernel_;
  const uint16_t block_id_;
  const size_t bytes_max_;
  size_t entries_max_ = 0;
  size_t pages_ = 0;
  uint64_t digest_ = 0;
  uint8_t* buffer_ = nullptr;
  uint8_t* data_ = nullptr;
  uint8_t* data_end_ = nullptr;
  // CRC of the data before crc_end_.
  uint8_t* crc_end_ = nullptr;
  uint32_t crc_ = 0;
};

// A batch that was found whole and valid. Points into the bytes it was parsed from.
struct BatchView {
  uint32_t pages = 0;
  uint16_t block_id = 0;
  uint64_t digest = 0;
  const uint8_t* table = nullptr;
  const uint8_t* data = nullptr;
};

struct BatchEntry {
  uint32_t page_index;
  uint16_t bytes;
  uint8_t encoding;
  uint8_t run_count;
};
BatchEntry EntryOf(const BatchView& view, size_t position);

// Checks everything that can be known without applying: sizes, order, bounds, each page's encoding.
// Throws Failure ERR_PROTOCOL_PAGE_BATCH. Reads `data[0, bytes)` only.
BatchView ParseBatch(const PageKernel& kernel, const uint8_t* data, size_t bytes,
                     uint64_t target_pages);

// Memory that batches are applied to. `fd`, when not -1, is the memory object behind it, so that
// long stretches of zero pages can be given back instead of written; unless all of it was taken
// beforehand, because somebody else could take what is given back (`keeps_pages`).
struct BatchTarget {
  uint8_t* pages;
  uint64_t count;
  int fd;
  bool keeps_pages;
};

// Applies a parsed batch, then compares the digest of the resulting pages with the header's.
// Throws Failure ERR_INTEGRITY_PAGE_DIGEST when it differs: the target is then damaged.
void ApplyBatch(const PageKernel& kernel, const BatchView& view, const BatchTarget& target);

}  // namespace romulus
