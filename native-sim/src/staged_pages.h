// What capture hands to encode: pages copied out of the guest.
//
// Lifetime: the arrays belong to the capture that filled them and stay valid until its next
// capture of any kind, trim() or close(). Both ends run in the same thread, one after the other.
#pragma once

#include <cstddef>
#include <cstdint>

namespace romulus {

constexpr size_t kPageBytes = 4096;

struct StagedPages {
  const uint32_t* page_index = nullptr;  // ascending, in pages from the start of the block
  const uint32_t* slots = nullptr;       // where in `data`; null when in the order of page_index
  const uint8_t* data = nullptr;
  size_t count = 0;

  const uint8_t* Page(size_t position) const {
    return data + (slots == nullptr ? position : slots[position]) * kPageBytes;
  }
};

}  // namespace romulus
