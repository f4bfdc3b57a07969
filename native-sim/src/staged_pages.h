// What capture hands to encode: pages copied out of the guest, densely packed.
//
// Lifetime: the arrays belong to the capture that filled them and stay valid until its next
// capture() or close(). Both ends run in the same thread, one after the other.
#pragma once

#include <cstddef>
#include <cstdint>

namespace romulus {

constexpr size_t kPageBytes = 4096;

struct StagedPages {
  const uint32_t* page_index = nullptr;  // ascending, in pages from the start of the block
  const uint8_t* data = nullptr;         // count * kPageBytes, in the order of page_index
  size_t count = 0;
};

}  // namespace romulus
