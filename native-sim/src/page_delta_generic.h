// Steps that all forms of the page functions share and that gain nothing from vectors.
//
// Each including file defines KERNEL_TARGET (the function attributes of its form) first, so that
// these are compiled, and inlined, for its processor. All in an anonymous namespace: one copy per
// form.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "page_delta.h"

#ifndef KERNEL_TARGET
#error "define KERNEL_TARGET before including page_delta_generic.h"
#endif

namespace romulus {
namespace {

constexpr std::array<uint8_t, 64> MakeByteIndexes() {
  std::array<uint8_t, 64> indexes{};
  for (uint8_t index = 0; index < 64; ++index) indexes[index] = index;
  return indexes;
}

KERNEL_TARGET inline uint64_t LoadWord(const uint8_t* from) {
  uint64_t word;
  std::memcpy(&word, from, sizeof word);
  return word;
}

// How many stretches of zero bits a word has.
KERNEL_TARGET inline uint32_t SpansOfZeros(uint64_t word) {
  const uint64_t zeros = ~word;
  return static_cast<uint32_t>(__builtin_popcountll(zeros & ~(zeros << 1)));
}

// Reads a LEB128 number of one or two bytes that was found valid.
KERNEL_TARGET inline uint32_t TakeLeb128(const uint8_t*& from) {
  const uint32_t low = *from++;
  if (low < 128) return low;
  return (low & 127) | static_cast<uint32_t>(*from++) << 7;
}

// Reads a LEB128 number of one or two bytes in its shortest form; false when there is none.
KERNEL_TARGET inline bool ReadLeb128(const uint8_t*& from, const uint8_t* end, uint32_t* value) {
  if (from == end) return false;
  const uint32_t low = *from++;
  *value = low;
  if (low < 128) return true;
  if (from == end) return false;
  const uint32_t high = *from++;
  *value = (low & 127) | high << 7;
  return high != 0 && high < 128;
}

// Bytes of the headers of valid runs: up to the last of the 2 * run_count numbers' final bytes.
KERNEL_TARGET inline size_t RunHeaderBytes(uint8_t run_count, const uint8_t* data) {
  size_t wanted = 2 * static_cast<size_t>(run_count);
  const uint8_t* at = data;
  // As long as eight numbers are missing, eight bytes are there.
  while (wanted >= 8) {
    wanted -= static_cast<size_t>(__builtin_popcountll(~LoadWord(at) & 0x8080808080808080u));
    at += 8;
  }
  while (wanted > 0) wanted -= *at++ < 128 ? 1 : 0;
  return static_cast<size_t>(at - data);
}

// The sum of four 16-bit numbers below 2^14.
KERNEL_TARGET inline size_t SumOfFour(uint64_t numbers) {
  return static_cast<size_t>(numbers * 0x0001000100010001 >> 48);
}

KERNEL_TARGET inline bool IsValidRunsGeneric(uint8_t run_count, const uint8_t* data,
                                             size_t bytes) {
  if (run_count == 0) return false;
  constexpr uint64_t kOddBytes = 0x00ff00ff00ff00ff;
  const uint8_t* from = data;
  const uint8_t* const end = data + bytes;
  size_t position = 0;
  size_t total = 0;
  for (uint32_t left = run_count; left > 0;) {
    const uint64_t word = left >= 4 && end - from >= 8 ? LoadWord(from) : ~uint64_t{0};
    if ((word & 0x8080808080808080) == 0) {
      // Four runs whose numbers have a byte each.
      const uint64_t lengths = word >> 8 & kOddBytes;
      // A carry out of each length that is not zero.
      if (((lengths + kOddBytes) & ~kOddBytes) != 0x0100010001000100) return false;
      const size_t sum = SumOfFour(lengths);
      position += SumOfFour(word & kOddBytes) + sum;
      total += sum;
      from += 8;
      left -= 4;
    } else {
      uint32_t skip;
      uint32_t length;
      if (!ReadLeb128(from, end, &skip) || !ReadLeb128(from, end, &length)) return false;
      if (length == 0) return false;
      position += skip + length;
      total += length;
      --left;
    }
  }
  return position <= kPageBytes && total == static_cast<size_t>(end - from);
}

// Encodings without structure of their own.
KERNEL_TARGET inline bool IsValidWhole(uint8_t encoding, size_t bytes) {
  return (encoding == kEncodingZero && bytes == 0) ||
         (encoding == kEncodingRaw && bytes == kPageBytes);
}

KERNEL_TARGET inline bool IsValidMaskGeneric(const uint8_t* data, size_t bytes) {
  if (bytes < 8) return false;
  const auto count = static_cast<size_t>(__builtin_popcountll(LoadWord(data)));
  if (count == 0 || bytes < 8 + 8 * count) return false;
  size_t total = 0;
  for (size_t line = 0; line < count; ++line) {
    const uint64_t mask = LoadWord(data + 8 + 8 * line);
    if (mask == 0) return false;
    total += static_cast<size_t>(__builtin_popcountll(mask));
  }
  return total == bytes - 8 - 8 * count;
}

KERNEL_TARGET inline bool IsValidGeneric(uint8_t encoding, uint8_t run_count, const uint8_t* data,
                                         size_t bytes) {
  if (encoding == kEncodingRuns) return IsValidRunsGeneric(run_count, data, bytes);
  if (run_count != 0) return false;
  if (encoding == kEncodingMask) return IsValidMaskGeneric(data, bytes);
  return IsValidWhole(encoding, bytes);
}

}  // namespace
}  // namespace romulus
