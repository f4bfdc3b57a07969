// The applying half of the AVX2 form. 16 bytes of a line at a time: what the mask names is taken from
// the data by one shuffle, and what it does not name is kept.
#include "page_delta_avx2.h"

#include <cstring>

namespace romulus {
namespace {

// Fewer bytes than this behind a line's data: they are copied first, since more is read than needed.
constexpr size_t kReadAhead = kLineBytes + 16;

// For each byte whose bits tell which of eight bytes are new: where each new one is among them, and
// the top bit for those that are kept.
constexpr std::array<uint64_t, 256> MakeExpandIndexes() {
  std::array<uint64_t, 256> table{};
  for (uint64_t bits = 0; bits < 256; ++bits) {
    uint64_t next = 0;
    for (uint64_t bit = 0; bit < 8; ++bit) {
      const uint64_t index = (bits >> bit & 1) != 0 ? next++ : 0x80;
      table[bits] |= index << (8 * bit);
    }
  }
  return table;
}

// What the indexes of the upper eight bytes are moved by, for each number of new ones below.
constexpr std::array<uint64_t, 9> MakeUpperOffsets() {
  std::array<uint64_t, 9> table{};
  for (uint64_t count = 0; count < 9; ++count) table[count] = count * 0x0101010101010101;
  return table;
}

constexpr std::array<uint64_t, 256> kExpandIndexes = MakeExpandIndexes();
constexpr std::array<uint64_t, 9> kUpperOffsets = MakeUpperOffsets();

// Applies the new bytes of a line; up to kReadAhead bytes are read from `from`.
KERNEL_TARGET_INLINE const uint8_t* ApplyLine(uint8_t* line, uint64_t mask, const uint8_t* from) {
  KERNEL_UNROLL(4)
  for (size_t part = 0; part < 4; ++part) {
    const auto low = static_cast<uint8_t>(mask >> (16 * part));
    const auto high = static_cast<uint8_t>(mask >> (16 * part + 8));
    const auto low_count = static_cast<size_t>(__builtin_popcount(low));
    const __m128i indexes = _mm_set_epi64x(
        static_cast<long long>(kExpandIndexes[high] + kUpperOffsets[low_count]),
        static_cast<long long>(kExpandIndexes[low]));
    auto* at = reinterpret_cast<__m128i*>(line + 16 * part);
    const __m128i data = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    const __m128i moved = _mm_shuffle_epi8(data, indexes);
    _mm_storeu_si128(at, _mm_blendv_epi8(moved, _mm_loadu_si128(at), indexes));
    from += low_count + static_cast<size_t>(__builtin_popcount(high));
  }
  return from;
}

KERNEL_TARGET_INLINE void ApplyMask(uint8_t* target, const uint8_t* data, const uint8_t* end) {
  uint64_t lines = LoadWord(data);
  const uint8_t* masks = data + 8;
  const uint8_t* from = masks + 8 * __builtin_popcountll(lines);
  for (; lines != 0; lines &= lines - 1, masks += 8) {
    uint8_t* line = target + kLineBytes * static_cast<size_t>(__builtin_ctzll(lines));
    const auto left = static_cast<size_t>(end - from);
    if (left >= kReadAhead) [[likely]] {
      from = ApplyLine(line, LoadWord(masks), from);
    } else {
      uint8_t copy[2 * kReadAhead] = {};
      std::memcpy(copy, from, left);
      from += ApplyLine(line, LoadWord(masks), copy) - copy;
    }
  }
}

// Vectors with the top bit of the first bytes clear, read at 32 minus their number.
alignas(64) constexpr std::array<uint8_t, 64> kKeepTail = [] {
  std::array<uint8_t, 64> bytes{};
  for (size_t at = 32; at < 64; ++at) bytes[at] = 0xff;
  return bytes;
}();

// New bytes of one run; a whole word, or vector, is read and written on either side. No wider than
// needed: what the next run reads would have to wait until it is written.
KERNEL_TARGET_INLINE void ApplyWord(uint8_t* to, const uint8_t* from, size_t length) {
  const uint64_t kept = ~uint64_t{0} << (8 * length);
  const uint64_t merged = (LoadWord(to) & kept) | _bzhi_u64(LoadWord(from), 8 * length);
  std::memcpy(to, &merged, sizeof merged);
}
KERNEL_TARGET_INLINE void ApplyVector(uint8_t* to, const uint8_t* from, size_t length) {
  const __m256i keep = Load256(kKeepTail.data() + 32 - length);
  Store256(to, _mm256_blendv_epi8(Load256(from), Load256(to), keep));
}

KERNEL_TARGET_INLINE void ApplyRuns(uint8_t* target, uint8_t run_count, const uint8_t* data,
                                    const uint8_t* end) {
  const uint8_t* from = data + RunHeaderBytes(run_count, data);
  const uint8_t* header = data;
  uint8_t* to = target;
  const uint8_t* const target_safe = target + kPageBytes - 32;
  const uint8_t* const from_safe = end - from >= 32 ? end - 32 : from - 1;
  for (uint32_t run = 0; run < run_count; ++run) {
    to += TakeLeb128(header);
    const size_t length = TakeLeb128(header);
    if (length > 32 || to > target_safe || from > from_safe) [[unlikely]] {
      std::memcpy(to, from, length);
    } else if (length < 8) {
      ApplyWord(to, from, length);
    } else {
      ApplyVector(to, from, length);
    }
    to += length;
    from += length;
  }
}

}  // namespace

KERNEL_TARGET PageSummary ApplyAvx2(uint8_t* target, uint8_t encoding, uint8_t run_count,
                                    const uint8_t* data, size_t bytes,
                                    const uint8_t* next_target) {
  switch (encoding) {
    case kEncodingZero:
      std::memset(target, 0, kPageBytes);
      return {};
    case kEncodingRaw:
      std::memcpy(target, data, kPageBytes);
      break;
    case kEncodingRuns:
      ApplyRuns(target, run_count, data, data + bytes);
      break;
    default:
      ApplyMask(target, data, data + bytes);
  }
  return SummarizeAndFetch(target, next_target);
}

}  // namespace romulus
