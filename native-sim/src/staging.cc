#include "staging.h"

#include <sys/mman.h>

#include <algorithm>
#include <string>

#include "failure.h"

namespace romulus {

namespace {

constexpr size_t kPopulatedBytesMax = size_t{64} << 20;
// Of the arrays by slot: for as many pages.
constexpr size_t kPopulatedNumbersMax = kPopulatedBytesMax / kPageBytes * sizeof(uint32_t);

size_t WholePages(size_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes; }

}  // namespace

StagingArea::StagingArea(size_t bytes) : bytes_(WholePages(bytes)) {
  void* area = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == MAP_FAILED) {
    throw Failure::System("ERR_LIMIT_MEMORY",
                          "cannot reserve " + std::to_string(bytes_) + " bytes to stage pages in",
                          "Raise the limit of address space (ulimit -v), or vm.overcommit_memory.");
  }
  data_ = static_cast<uint8_t*>(area);
}

StagingArea::~StagingArea() { munmap(data_, bytes_); }

void StagingArea::UseHugePages() { madvise(data_, bytes_, MADV_HUGEPAGE); }

void StagingArea::Populate(size_t end) {
  populated_ = std::min(end, bytes_);
  for (size_t at = 0; at < populated_; at += kPageBytes) data_[at] = 1;
}

void StagingArea::Trim() {
  if (populated_ < bytes_) madvise(data_ + populated_, bytes_ - populated_, MADV_DONTNEED);
}

Staging::Staging(uint64_t page_count)
    : data_(page_count * kPageBytes),
      page_index_(page_count * sizeof(uint32_t)),
      slot_of_page_(page_count * sizeof(uint32_t)),
      round_slots_(page_count * sizeof(uint32_t)),
      order_(page_count * sizeof(uint32_t)),
      ordered_pages_(page_count * sizeof(uint32_t)) {
  // Huge pages spare the non-temporal stores most of their TLB misses. Where there are none,
  // everything still works.
  data_.UseHugePages();
  data_.Populate(kPopulatedBytesMax);
  page_index_.Populate(kPopulatedNumbersMax);
  round_slots_.Populate(kPopulatedNumbersMax);
  // A pause may look any page up.
  slot_of_page_.Populate(page_count * sizeof(uint32_t));
}

void Staging::Clear() {
  end_ = 0;
  arranged_ = 0;
  round_begin_ = 0;
  round_end_ = 0;
}

void Staging::BeginRound(Round round) {
  if (arranged_ < end_) Arrange();
  round_begin_ = end_;
  round_end_ = 0;
  looks_up_ = end_ > 0;
  remembers_ = round == Round::kMoreFollow;
}

void Staging::Arrange() {
  uint32_t* const order = order_.numbers();
  for (size_t slot = arranged_; slot < end_; ++slot) order[slot] = static_cast<uint32_t>(slot);
  const uint32_t* const pages = page_index_.numbers();
  std::inplace_merge(order, order + arranged_, order + end_,
                     [pages](uint32_t left, uint32_t right) { return pages[left] < pages[right]; });
  arranged_ = end_;
}

StagedPages Staging::All() {
  // One round is in order as it is.
  if (round_begin_ == 0) return {page_index_.numbers(), nullptr, data_.data(), end_};
  if (arranged_ < end_) Arrange();
  for (size_t at = 0; at < end_; ++at) ordered_pages_.numbers()[at] = PageIn(order_.numbers()[at]);
  return {ordered_pages_.numbers(), order_.numbers(), data_.data(), end_};
}

void Staging::Trim() {
  for (StagingArea* area :
       {&data_, &page_index_, &slot_of_page_, &round_slots_, &order_, &ordered_pages_}) {
    area->Trim();
  }
}

}  // namespace romulus
