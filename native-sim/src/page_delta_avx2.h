// What the encoding and the applying half of the AVX2 form share: target, tables, and the sum of a
// page. Include before anything else of the project, since it defines KERNEL_TARGET.
#pragma once

#define KERNEL_TARGET __attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt,pclmul,sse4.2")))
#define KERNEL_TARGET_INLINE KERNEL_TARGET __attribute__((always_inline)) inline
// Loops that need all registers for themselves.
#define KERNEL_TARGET_APART KERNEL_TARGET __attribute__((noinline))

// GCC at -O2 leaves such loops rolled.
#define KERNEL_PRAGMA(text) _Pragma(#text)
#define KERNEL_UNROLL(times) KERNEL_PRAGMA(GCC unroll times)

#include "crc32c.h"
#include "page_delta.h"
#include "page_delta_generic.h"
#include "page_delta_simd.h"

namespace romulus {

PageSummary ApplyAvx2(uint8_t* target, uint8_t encoding, uint8_t run_count, const uint8_t* data,
                      size_t bytes, const uint8_t* next_target);

namespace {

KERNEL_TARGET_INLINE __m256i Load256(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

KERNEL_TARGET_INLINE void Store256(void* to, __m256i value) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), value);
}

KERNEL_TARGET_INLINE void CopyLine(const uint8_t* from, uint8_t* to) {
  const __m256i low = Load256(from);
  const __m256i high = Load256(from + 32);
  Store256(to, low);
  Store256(to + 32, high);
}

KERNEL_TARGET_INLINE void Fetch(const uint8_t* page, size_t line) {
  _mm_prefetch(reinterpret_cast<const char*>(page + kLineBytes * line), _MM_HINT_T0);
}

constexpr uint32_t kCrcSeed = 0xffffffff;

// The CRC of a page as three streams and two words: the instruction takes three cycles and one may
// start in each, so one stream alone would leave it idle most of the time.
struct PageCrc {
  static constexpr size_t kWordsPerStream = crc32c_detail::kStreamBytes / 8;

  const uint8_t* page;
  uint64_t first = kCrcSeed;
  uint64_t second = 0;
  uint64_t third = 0;

  KERNEL_TARGET_INLINE explicit PageCrc(const uint8_t* of) : page(of) {}

  KERNEL_TARGET_INLINE void Add(size_t word) {
    constexpr size_t kStream = crc32c_detail::kStreamBytes;
    first = _mm_crc32_u64(first, LoadWord(page + 8 * word));
    second = _mm_crc32_u64(second, LoadWord(page + kStream + 8 * word));
    third = _mm_crc32_u64(third, LoadWord(page + 2 * kStream + 8 * word));
  }

  // Call when all words of the streams were added.
  KERNEL_TARGET_INLINE uint32_t Finish() const {
    constexpr size_t kStreamBits = 8 * crc32c_detail::kStreamBytes;
    uint64_t state = Shift<2 * kStreamBits>(first) ^ Shift<kStreamBits>(second) ^ third;
    static_assert(3 * crc32c_detail::kStreamBytes + 16 == kPageBytes);
    state = _mm_crc32_u64(state, LoadWord(page + kPageBytes - 16));
    state = _mm_crc32_u64(state, LoadWord(page + kPageBytes - 8));
    return ~static_cast<uint32_t>(state);
  }

 private:
  // A state after so many bits of zeros more: a product, reduced by the CRC32 instruction, which
  // multiplies by x^32 itself.
  template <uint64_t kBits>
  KERNEL_TARGET_INLINE static uint64_t Shift(uint64_t state) {
    constexpr uint64_t kPower = crc32c_detail::FoldConstant(kBits - 32);
    const __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128(static_cast<long long>(state)),
                                                 _mm_cvtsi64_si128(static_cast<long long>(kPower)),
                                                 0x00);
    return _mm_crc32_u64(0, static_cast<uint64_t>(_mm_cvtsi128_si64(product)));
  }
};

KERNEL_TARGET inline bool IsAllZeros(const uint8_t* page) {
  __m256i any = _mm256_setzero_si256();
  for (size_t offset = 0; offset < kPageBytes; offset += 32) {
    any = _mm256_or_si256(any, Load256(page + offset));
  }
  return _mm256_testz_si256(any, any) != 0;
}

// Only one page in 2^32 has the CRC of zeros without being zeros: looked at only then.
KERNEL_TARGET_INLINE PageSummary SummaryOf(const uint8_t* page, uint32_t crc) {
  if (crc == crc32c_detail::kZeroPageCrc && IsAllZeros(page)) return {};
  return {.crc = crc, .is_zero = false};
}

// Sums a page up, and brings `next` into the cache meanwhile, a line for each.
KERNEL_TARGET_INLINE PageSummary SummarizeAndFetch(const uint8_t* page, const uint8_t* next) {
  constexpr size_t kWordsPerStep = 5;
  constexpr size_t kSteps = PageCrc::kWordsPerStream / kWordsPerStep;
  static_assert(kSteps * kWordsPerStep == PageCrc::kWordsPerStream);
  PageCrc crc(page);
  for (size_t step = 0; step < kSteps; ++step) {
    KERNEL_UNROLL(5)
    for (size_t word = 0; word < kWordsPerStep; ++word) crc.Add(kWordsPerStep * step + word);
    if (2 * step < kLinesPerPage) {
      Fetch(next, 2 * step);
      Fetch(next, 2 * step + 1);
    }
  }
  return SummaryOf(page, crc.Finish());
}

}  // namespace
}  // namespace romulus
