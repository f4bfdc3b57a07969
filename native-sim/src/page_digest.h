// The digest of a page, as docs/ARCHITECTURE.md defines it: 0 for an all-zero page, otherwise the
// page's CRC32C and its index, spread over 64 bits. An image's digest is the sum modulo 2^64.
#pragma once

#include <cstdint>

namespace romulus {

// What one pass over a page tells.
struct PageSummary {
  uint32_t crc = 0;
  bool is_zero = true;
};

// The finalizer of splitmix64 (Steele, Lea and Flood 2014).
constexpr uint64_t Mix64(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

constexpr uint64_t PageDigest(uint32_t page_index, PageSummary summary) {
  if (summary.is_zero) return 0;
  return Mix64((static_cast<uint64_t>(summary.crc) << 32) | page_index);
}

}  // namespace romulus
