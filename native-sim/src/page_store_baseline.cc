#include "page_store_baseline.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "failure.h"

namespace romulus {
namespace {

// What a page that was never encoded is compared with, instead of populating the reservation.
alignas(64) constexpr uint8_t kZeroPage[kPageBytes] = {};

void Count(const EncodedPage& page, EncodeCounts* counts) {
  switch (page.encoding) {
    case kEncodingZero:
      counts->zero += 1;
      break;
    case kEncodingRaw:
      counts->raw += 1;
      break;
    case kEncodingRuns:
      counts->runs += 1;
      break;
    case kEncodingMask:
      counts->mask += 1;
      break;
    default:
      counts->unchanged += 1;
  }
}

// Keeps one batch open, starts the next when it is full.
class Output {
 public:
  Output(const EncodeOptions& options, uint64_t pages, BatchSink& sink)
      : encoder_(*options.kernel, options.block_id, options.batch_bytes_max),
        pages_left_(pages),
        sink_(sink) {}

  uint8_t* Room() {
    if (open_ && !encoder_.HasRoom()) Close();
    if (!open_) {
      encoder_.Begin(sink_.Buffer(encoder_.BufferBytes(pages_left_)), pages_left_);
      open_ = true;
    }
    return encoder_.room();
  }

  void Add(uint64_t index, const EncodedPage& page) {
    Count(page, &counts_);
    pages_left_ -= 1;
    if (page.encoding != kEncodingUnchanged) encoder_.Add(static_cast<uint32_t>(index), page);
  }

  EncodeCounts Finish() {
    if (open_ && encoder_.pages() > 0) Close();
    return counts_;
  }

 private:
  void Close() {
    const BatchEncoder::Finished batch = encoder_.Finish();
    counts_.encoded_bytes += batch.bytes;
    sink_.Take(batch);
    open_ = false;
  }

  BatchEncoder encoder_;
  uint64_t pages_left_;
  BatchSink& sink_;
  EncodeCounts counts_;
  bool open_ = false;
};

}  // namespace

Reservation::Reservation(size_t bytes) : bytes_(bytes) {
  void* mapping = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) {
    throw Failure::System("ERR_HOST_MEMORY_MAP",
                          "cannot reserve " + std::to_string(bytes) + " bytes for the baseline",
                          "Raise the address-space limit (ulimit -v) or vm.overcommit_memory.");
  }
  data_ = static_cast<uint8_t*>(mapping);
}

Reservation::~Reservation() { munmap(data_, bytes_); }

void Reservation::UseHugePages(size_t offset, size_t bytes) {
  madvise(data_ + offset, bytes, MADV_HUGEPAGE);
}

void Reservation::Clear() {
  if (madvise(data_, bytes_, MADV_DONTNEED) != 0) {
    throw Failure::System("ERR_HOST_MEMORY_MAP", "cannot clear the baseline",
                          "Start the node again.");
  }
}

PageBaseline::PageBaseline(uint64_t pages)
    : pages_(pages),
      memory_(pages * kPageBytes),
      epochs_memory_(pages * sizeof(uint64_t)),
      crcs_memory_(pages * sizeof(uint32_t)),
      changed_(reinterpret_cast<uint64_t*>(epochs_memory_.data())),
      crcs_(reinterpret_cast<uint32_t*>(crcs_memory_.data())) {}

void PageBaseline::Check(const StagedPages& staged) const {
  uint64_t next = 0;
  for (size_t at = 0; at < staged.count; ++at) {
    const uint64_t index = staged.page_index[at];
    if (index < next || index >= pages_) {
      throw Failure("ERR_INTERNAL_STAGED_PAGES",
                    "staged page " + std::to_string(index) + " does not ascend or lies outside " +
                        std::to_string(pages_) + " pages",
                    "This is a defect in Romulus: please report it.");
    }
    next = index + 1;
  }
}

void PageBaseline::PrepareDense(const StagedPages& staged) {
  for (size_t at = 0; at + kHugePages <= staged.count;) {
    const uint64_t first = staged.page_index[at];
    size_t count = 0;
    while (first % kHugePages == 0 && at + count + kHugePages <= staged.count &&
           staged.page_index[at + count + kHugePages - 1] == first + count + kHugePages - 1) {
      count += kHugePages;
    }
    // The reservation begins where the kernel put it: what is dense need not be aligned to it, so
    // its edges may stay small pages.
    const bool is_new = changed_[first] == 0 || !IsKept(first);
    if (count > 0 && is_new && huge_stretches_ < kHugeStretchesMax) {
      memory_.UseHugePages(first * kPageBytes, count * kPageBytes);
      // One that goes on where the last one ended becomes part of it.
      if (first != huge_end_) huge_stretches_ += 1;
      huge_end_ = first + count;
    }
    at += std::max<size_t>(count, 1);
  }
}

EncodeCounts PageBaseline::Encode(const StagedPages& staged, const EncodeOptions& options,
                                  BatchSink& sink) {
  Check(staged);
  const bool is_base = options.mode == EncodeMode::kBase;
  if (!is_base) PrepareDense(staged);
  Output output(options, staged.count, sink);
  const PageKernel& kernel = *options.kernel;
  // Where a kernel brings up to date what is not to be kept: one page, that stays in the cache.
  alignas(64) uint8_t scratch[kPageBytes];
  const auto old_of = [&](size_t at) -> const uint8_t* {
    const uint64_t index = staged.page_index[at];
    return changed_[index] == 0 || !IsKept(index) ? kZeroPage : Page(index);
  };
  size_t last_bytes = 0;
  for (size_t at = 0; at < staged.count; ++at) {
    const uint64_t index = staged.page_index[at];
    const uint8_t* now = staged.Page(at);
    const bool is_kept = IsKept(index);
    const bool keeps = !is_base || (is_kept && changed_[index] != 0);
    EncodedPage page;
    if (options.mode == EncodeMode::kFull || !is_kept) {
      page = kernel.encode_full(now, keeps ? Page(index) : nullptr, output.Room());
      // A page that was never written here is zeros already, and stays without memory.
      if (page.encoding == kEncodingZero && is_kept && changed_[index] != 0) {
        std::memset(Page(index), 0, kPageBytes);
      }
    } else {
      const bool is_last = at + 1 == staged.count;
      page = kernel.encode_delta(now, old_of(at), keeps ? Page(index) : scratch, output.Room(),
                                 {is_last ? now : staged.Page(at + 1),
                                  old_of(is_last ? at : at + 1), last_bytes});
      last_bytes = page.bytes;
    }
    if (page.encoding != kEncodingUnchanged) {
      const bool is_lost = !keeps && page.encoding != kEncodingZero;
      changed_[index] = (options.epoch + 1) | (is_lost ? kNotKept : 0);
      if (is_lost) crcs_[index] = page.summary.crc;
    }
    output.Add(index, page);
  }
  return output.Finish();
}

EncodeCounts PageBaseline::EncodeChangedSince(uint64_t since, uint64_t from_page,
                                              uint64_t page_limit, const EncodeOptions& options,
                                              BatchSink& sink, uint64_t* next_page) {
  Output output(options, std::min(page_limit, pages_), sink);
  uint64_t index = from_page;
  for (uint64_t count = 0; index < pages_ && count < page_limit; ++index) {
    if (ChangedIn(index) <= since + 1) continue;
    if (!IsKept(index)) {
      throw Failure("ERR_INTERNAL_BASELINE",
                    "page " + std::to_string(index) + " went with a base image after epoch " +
                        std::to_string(since) + ", and its content is not here any more",
                    "This is a defect in Romulus: please report it.");
    }
    output.Add(index, options.kernel->encode_full(Page(index), nullptr, output.Room()));
    ++count;
  }
  *next_page = std::min(index, pages_);
  return output.Finish();
}

uint64_t PageBaseline::CountChangedSince(uint64_t since) const {
  uint64_t count = 0;
  for (uint64_t index = 0; index < pages_; ++index) count += ChangedIn(index) > since + 1 ? 1 : 0;
  return count;
}

uint64_t PageBaseline::Digest(const PageKernel& kernel, uint64_t from_page,
                              uint64_t page_count) const {
  uint64_t digest = 0;
  const uint64_t end = from_page + std::min(page_count, pages_ - std::min(from_page, pages_));
  for (uint64_t index = from_page; index < end; ++index) {
    if (changed_[index] == 0) continue;
    const PageSummary summary =
        IsKept(index) ? kernel.summarize(Page(index)) : PageSummary{crcs_[index], false};
    digest += PageDigest(static_cast<uint32_t>(index), summary);
  }
  return digest;
}

void PageBaseline::Reset() {
  memory_.Clear();
  epochs_memory_.Clear();
  crcs_memory_.Clear();
}

}  // namespace romulus
