// The AVX-512 form of the page functions, the half that checks and applies.
#include "page_delta_avx512.h"

#include <cstring>

namespace romulus {
namespace {

// Headers of runs, 32 numbers (16 runs) at a time: LEB128 of one or two bytes spread to 16 bits
// each.
struct RunHeaders {
  // Skips and lengths in turn, with room for whole vectors.
  alignas(64) uint16_t numbers[2 * (kRunsMax + 1)];
  size_t bytes;  // that the headers take

  // Reads no byte at or after `end`. False when the headers are not whole, not in shortest form,
  // hold an empty run or pass the page's end, or when their lengths do not sum up to what follows
  // them.
  KERNEL_TARGET_INLINE bool Read(uint32_t run_count, const uint8_t* from, const uint8_t* end) {
    const __m512i none = _mm512_setzero_si512();
    const uint8_t* at = from;
    __m512i total = none;
    __m512i lengths = none;
    uint64_t bad = 0;
    for (uint32_t done = 0; done < 2 * run_count; done += 32) {
      const uint32_t count = 2 * run_count - done < 32 ? 2 * run_count - done : 32;
      const auto left = static_cast<size_t>(end - at);
      const uint64_t there = _bzhi_u64(~0ull, static_cast<uint32_t>(left < 64 ? left : 64));
      const __m512i bytes_here = _mm512_maskz_loadu_epi8(there, at);
      // A byte goes on with the next one; a number starts where the byte before did not.
      const uint64_t goes_on = _mm512_movepi8_mask(bytes_here);
      const uint64_t starts = ~(goes_on << 1);
      const auto is_long =
          static_cast<uint32_t>(_bzhi_u64(_pext_u64(goes_on, starts), count));
      const uint64_t keep =
          _bzhi_u64(0x5555555555555555u, 2 * count) | _pdep_u64(is_long, 0xaaaaaaaaaaaaaaaau);
      // Mostly all numbers are short: guessing so lets the next ones be read before these are.
      uint32_t used = count;
      if (is_long != 0) {
        used = static_cast<uint32_t>(__builtin_popcountll(keep));
        // Keeps this a branch: a conditional move would wait for the count.
        asm volatile("" : "+r"(used));
      }
      const __m512i spread = _mm512_maskz_expand_epi8(keep, bytes_here);
      const __m512i high = _mm512_srli_epi16(spread, 8);
      const __m512i values = _mm512_or_si512(
          _mm512_and_si512(spread, _mm512_set1_epi16(127)), _mm512_slli_epi16(high, 7));
      _mm512_store_si512(numbers + done, values);
      const auto wanted = static_cast<__mmask32>(_bzhi_u64(~0ull, count));
      bad |= _bzhi_u64(goes_on & (goes_on << 1), used);
      bad |= _mm512_mask_cmpeq_epi16_mask(is_long, high, none);
      bad |= _mm512_mask_cmpeq_epi16_mask(wanted & 0xaaaaaaaa, values, none);
      const __m512i ones = _mm512_set1_epi16(1);
      const __m512i odd = _mm512_maskz_mov_epi16(0xaaaaaaaa, values);
      total = _mm512_add_epi32(total, _mm512_madd_epi16(values, ones));
      lengths = _mm512_add_epi32(lengths, _mm512_madd_epi16(odd, ones));
      if (used > left) return false;
      at += used;
    }
    bytes = static_cast<size_t>(at - from);
    return bad == 0 && run_count != 0 &&
           _mm512_reduce_add_epi32(total) <= static_cast<int>(kPageBytes) &&
           _mm512_reduce_add_epi32(lengths) == static_cast<int>(end - at);
  }
};

KERNEL_TARGET bool IsValidRuns(uint8_t run_count, const uint8_t* data, size_t bytes) {
  RunHeaders headers;
  return headers.Read(run_count, data, data + bytes);
}

KERNEL_TARGET bool IsValidMask(const uint8_t* data, size_t bytes) {
  if (bytes < 8) return false;
  uint64_t lines;
  std::memcpy(&lines, data, sizeof lines);
  const auto count = static_cast<size_t>(__builtin_popcountll(lines));
  if (count == 0 || bytes < 8 + 8 * count) return false;
  __m512i sum = _mm512_setzero_si512();
  uint32_t empty = 0;
  for (size_t at = 0; at < count; at += 8) {
    const size_t left = count - at;
    const auto wanted = static_cast<__mmask8>(left >= 8 ? 0xff : (1u << left) - 1);
    const __m512i masks = _mm512_maskz_loadu_epi64(wanted, data + 8 + 8 * at);
    empty |= _mm512_mask_testn_epi64_mask(wanted, masks, masks);
    sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(masks));
  }
  return empty == 0 &&
         _mm512_reduce_add_epi64(sum) == static_cast<long long>(bytes - 8 - 8 * count);
}

// Masked-off bytes are neither read nor written, so neither end of a buffer is passed.
KERNEL_TARGET void ApplyRuns(uint8_t* target, uint8_t run_count, const uint8_t* data,
                             size_t bytes) {
  RunHeaders headers;
  if (!headers.Read(run_count, data, data + bytes)) return;
  const uint8_t* from = data + headers.bytes;
  uint8_t* to = target;
  for (size_t run = 0; run < run_count; ++run) {
    to += headers.numbers[2 * run];
    size_t length = headers.numbers[2 * run + 1];
    if (length <= 16) {
      // Most runs are short, and a narrow access seldom crosses into the next line.
      const auto wanted = static_cast<__mmask16>((1u << length) - 1);
      _mm_mask_storeu_epi8(to, wanted, _mm_maskz_loadu_epi8(wanted, from));
    } else {
      for (; length > 64; length -= 64, to += 64, from += 64) {
        _mm512_storeu_si512(to, _mm512_loadu_si512(from));
      }
      const __mmask64 wanted = _bzhi_u64(~0ull, static_cast<uint32_t>(length));
      _mm512_mask_storeu_epi8(to, wanted, _mm512_maskz_loadu_epi8(wanted, from));
    }
    to += length;
    from += length;
  }
}

KERNEL_TARGET void ApplyMask(uint8_t* target, const uint8_t* data) {
  uint64_t lines;
  std::memcpy(&lines, data, sizeof lines);
  const uint8_t* masks = data + 8;
  const uint8_t* from = masks + 8 * __builtin_popcountll(lines);
  for (; lines != 0; lines &= lines - 1, masks += 8) {
    uint64_t changed;
    std::memcpy(&changed, masks, sizeof changed);
    const auto count = static_cast<uint32_t>(__builtin_popcountll(changed));
    uint8_t* line = target + 64 * __builtin_ctzll(lines);
    const __m512i packed = _mm512_maskz_loadu_epi8(_bzhi_u64(~0ull, count), from);
    _mm512_storeu_si512(line,
                        _mm512_mask_expand_epi8(_mm512_loadu_si512(line), changed, packed));
    from += count;
  }
}

}  // namespace

KERNEL_TARGET bool IsValidAvx512(uint8_t encoding, uint8_t run_count, const uint8_t* data,
                                 size_t bytes) {
  if (encoding == kEncodingRuns) return IsValidRuns(run_count, data, bytes);
  if (run_count != 0) return false;
  if (encoding == kEncodingMask) return IsValidMask(data, bytes);
  return IsValidWhole(encoding, bytes);
}

KERNEL_TARGET PageSummary ApplyAvx512(uint8_t* target, uint8_t encoding, uint8_t run_count,
                                      const uint8_t* data, size_t bytes,
                                      const uint8_t* next_target) {
  switch (encoding) {
    case kEncodingZero:
      std::memset(target, 0, kPageBytes);
      return {};
    case kEncodingRaw:
      return SummarizeAndFetch(data, target, next_target);
    case kEncodingRuns:
      ApplyRuns(target, run_count, data, bytes);
      break;
    default:
      ApplyMask(target, data);
  }
  return SummarizeAndFetch(target, nullptr, next_target);
}

}  // namespace romulus
