// The primary's shadow of a block: what the backup has, or will have when all that was encoded so
// far has arrived. New content is encoded against it and brings it up to date in the same pass.
//
// Memory: a reservation as large as the block, of which only pages that were encoded after the base
// image take any (ADR 19), eight bytes per page that say in which epoch the page last changed, and
// four for the CRC of a page that only a base image held. Ownership: the object owns the mappings.
// One thread at a time; nothing here locks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "page_delta_batch.h"
#include "staged_pages.h"

namespace romulus {

// Where batches go. The sink owns the buffers.
class BatchSink {
 public:
  // A buffer of at least `bytes`, valid until Take or the end of the call.
  virtual uint8_t* Buffer(size_t bytes) = 0;
  // The batch in the buffer given last is complete.
  virtual void Take(const BatchEncoder::Finished& batch) = 0;

 protected:
  ~BatchSink() = default;
};

enum class EncodeMode : uint8_t {
  kDelta,  // against what the backup has, which it becomes
  kFull,   // zero or raw only, and unchanged pages too
  kBase,   // as delta, but of a page that is new only the CRC is kept, not the content
};

struct EncodeOptions {
  const PageKernel* kernel;
  uint16_t block_id;
  uint64_t epoch;
  size_t batch_bytes_max;
  EncodeMode mode;
};

struct EncodeCounts {
  uint64_t zero = 0;
  uint64_t unchanged = 0;
  uint64_t runs = 0;
  uint64_t mask = 0;
  uint64_t raw = 0;
  uint64_t encoded_bytes = 0;

  uint64_t pages() const { return zero + runs + mask + raw; }
};

// An anonymous mapping, given back when it goes out of scope.
class Reservation {
 public:
  explicit Reservation(size_t bytes);
  ~Reservation();
  Reservation(const Reservation&) = delete;
  Reservation& operator=(const Reservation&) = delete;
  uint8_t* data() const { return data_; }
  // Advice: a kernel without huge pages works the same, slower.
  void UseHugePages(size_t offset, size_t bytes);
  // Makes all of it zeros that take no memory.
  void Clear();

 private:
  uint8_t* data_;
  size_t bytes_;
};

class PageBaseline {
 public:
  explicit PageBaseline(uint64_t pages);

  uint64_t pages() const { return pages_; }
  // Throws Failure ERR_INTERNAL_STAGED_PAGES, with nothing changed, when the indexes do not ascend
  // or lie outside.
  EncodeCounts Encode(const StagedPages& staged, const EncodeOptions& options, BatchSink& sink);
  // Encodes, in full, pages from `from_page` on that changed after epoch `since`, at most
  // `page_limit`. `next_page` receives where to go on; pages() when all are done.
  // Throws Failure ERR_INTERNAL_BASELINE for an epoch before the one that the base image is of.
  EncodeCounts EncodeChangedSince(uint64_t since, uint64_t from_page, uint64_t page_limit,
                                  const EncodeOptions& options, BatchSink& sink,
                                  uint64_t* next_page);
  uint64_t CountChangedSince(uint64_t since) const;
  // Sum of the page digests over [from_page, from_page + page_count), never encoded pages skipped.
  uint64_t Digest(const PageKernel& kernel, uint64_t from_page, uint64_t page_count) const;
  void Reset();

 private:
  static constexpr size_t kHugePages = 512;
  // Each stretch may be a mapping of its own to the kernel, of which a process may have 65,530.
  static constexpr size_t kHugeStretchesMax = 8192;
  // Beside the epoch: the page went with a base image, and was not encoded since.
  static constexpr uint64_t kNotKept = uint64_t{1} << 63;

  void Check(const StagedPages& staged) const;
  // Huge pages where whole ones are about to be filled, as by a base image: a fraction of the faults.
  // Not elsewhere: for one page written in a fresh stretch the kernel would clear 512, which takes
  // a third of a millisecond and the memory of all of them.
  void PrepareDense(const StagedPages& staged);
  uint8_t* Page(uint64_t index) const { return memory_.data() + index * kPageBytes; }
  // Whether a page's content is here. Zeros are, without taking memory.
  bool IsKept(uint64_t index) const { return (changed_[index] & kNotKept) == 0; }
  // 1 + the epoch of a page's last change; 0 when it was never encoded.
  uint64_t ChangedIn(uint64_t index) const { return changed_[index] & ~kNotKept; }

  uint64_t pages_;
  size_t huge_stretches_ = 0;
  uint64_t huge_end_ = UINT64_MAX;
  Reservation memory_;
  Reservation epochs_memory_;
  Reservation crcs_memory_;
  // Per page: 1 + the epoch of its last change, and kNotKept; 0 when it was never encoded, hence all
  // zeros.
  uint64_t* changed_;
  // Per page that is not kept: its CRC, of which its digest is made.
  uint32_t* crcs_;
};

}  // namespace romulus
