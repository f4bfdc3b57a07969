// Where captured pages lie until they are encoded: one slot for each page, in the order of coming.
//
// Pages come in rounds. A page that an earlier round staged already keeps its slot, to be copied over
// in place, so however many rounds there are, staging never holds more than the block. All() gives
// everything that was staged, in the order of the pages.
//
// Which slot a page has is looked up in a sparse set (Briggs and Torczon, 1993): forgetting everything
// costs nothing. All areas are reserved at the block's full size, so they cannot overflow. Memory is taken
// by what was used, by the first 64 MiB of pages, and by four bytes for every page of the block; Trim gives
// back what one large capture left. One thread at a time, but copying into different slots.
#pragma once

#include <cstddef>
#include <cstdint>

#include "staged_pages.h"

namespace romulus {

// Memory without content, given back when it goes out of scope.
class StagingArea {
 public:
  explicit StagingArea(size_t bytes);
  StagingArea(const StagingArea&) = delete;
  StagingArea& operator=(const StagingArea&) = delete;
  ~StagingArea();

  uint8_t* data() const { return data_; }
  uint32_t* numbers() const { return reinterpret_cast<uint32_t*>(data_); }
  void UseHugePages();
  // Touches what lies before `end`, so that this is not done while a guest waits.
  void Populate(size_t end);
  // Makes what lies behind it zeros that take no memory.
  void Trim();

 private:
  size_t bytes_;
  size_t populated_ = 0;
  uint8_t* data_;
};

class Staging {
 public:
  // Whether pages of a round may come again in a later one.
  enum class Round { kMoreFollow, kLast };

  explicit Staging(uint64_t page_count);

  // Forgets all pages.
  void Clear();
  // What is added from now on is a round, until the next.
  void BeginRound(Round round);
  // Puts slots that are new since the last time in their places in the order of pages. Done after a round
  // while the machine runs, it is not left for the pause.
  void Arrange();
  // Pages of a round must be different from one another and ascend.
  void Add(uint32_t page);

  // What this round has to copy, in the order of the pages.
  size_t round_pages() const { return round_end_; }
  size_t SlotAt(size_t position) const { return round_slots_.numbers()[position]; }
  uint32_t PageIn(size_t slot) const { return page_index_.numbers()[slot]; }
  uint8_t* Bytes(size_t slot) const { return data_.data() + slot * kPageBytes; }

  // All that was staged since Clear. Arranges what is not: not for a pause.
  StagedPages All();

  void Trim();

 private:
  StagingArea data_;
  // By slot.
  StagingArea page_index_;
  // By page: right if that slot is used and holds that page, otherwise left from an earlier capture.
  StagingArea slot_of_page_;
  StagingArea round_slots_;
  // The first `arranged_` slots in the order of their pages; and these pages, when asked for.
  StagingArea order_;
  StagingArea ordered_pages_;
  size_t arranged_ = 0;
  size_t end_ = 0;
  size_t round_begin_ = 0;
  size_t round_end_ = 0;
  bool looks_up_ = false;
  bool remembers_ = false;
};

inline void Staging::Add(uint32_t page) {
  if (looks_up_) {
    const uint32_t slot = slot_of_page_.numbers()[page];
    if (slot < round_begin_ && PageIn(slot) == page) {
      round_slots_.numbers()[round_end_++] = slot;
      return;
    }
  }
  const auto slot = static_cast<uint32_t>(end_++);
  page_index_.numbers()[slot] = page;
  if (remembers_) slot_of_page_.numbers()[page] = slot;
  round_slots_.numbers()[round_end_++] = slot;
}

}  // namespace romulus
