// What the encoding and the applying half of the AVX-512 form share: target, and the pass over a
// page. Include before anything else of the project, since it defines KERNEL_TARGET.
#pragma once

#define KERNEL_TARGET                                                                      \
  __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,"  \
                        "avx512vpopcntdq,vpclmulqdq,pclmul,sse4.2,bmi,bmi2,lzcnt,popcnt")))
#define KERNEL_TARGET_INLINE KERNEL_TARGET __attribute__((always_inline)) inline

// GCC at -O2 leaves such loops rolled, and with them the vectors that they go over in memory.
#define KERNEL_PRAGMA(text) _Pragma(#text)
#define KERNEL_UNROLL(times) KERNEL_PRAGMA(GCC unroll times)

#include "crc32c_fold.h"
#include "page_delta.h"
#include "page_delta_generic.h"
#include "page_delta_simd.h"

namespace romulus {

bool IsValidAvx512(uint8_t encoding, uint8_t run_count, const uint8_t* data, size_t bytes);
PageSummary ApplyAvx512(uint8_t* target, uint8_t encoding, uint8_t run_count, const uint8_t* data,
                        size_t bytes, const uint8_t* next_target);

namespace {

constexpr uint32_t kCrcSeed = 0xffffffff;

// Four lines at a time into four independent CRC remainders.
struct Folder {
  __m512i remainder[4];
  __m512i any;

  KERNEL_TARGET_INLINE void Start(const __m512i* lines) {
    any = _mm512_setzero_si512();
    KERNEL_UNROLL(4)
    for (int i = 0; i < 4; ++i) {
      remainder[i] = lines[i];
      any = _mm512_or_si512(any, lines[i]);
    }
    remainder[0] = _mm512_xor_si512(remainder[0], crc32c_detail::FoldSeed(kCrcSeed));
  }

  KERNEL_TARGET_INLINE void Add(const __m512i* lines, __m512i constants) {
    KERNEL_UNROLL(4)
    for (int i = 0; i < 4; ++i) {
      remainder[i] = crc32c_detail::Fold(remainder[i], constants, lines[i]);
    }
    any = _mm512_or_si512(_mm512_ternarylogic_epi64(any, lines[0], lines[1], 0xfe),
                          _mm512_or_si512(lines[2], lines[3]));
  }

  KERNEL_TARGET_INLINE PageSummary Finish() const {
    PageSummary summary;
    summary.is_zero = _mm512_test_epi64_mask(any, any) == 0;
    summary.crc =
        ~crc32c_detail::FoldFinish(remainder[0], remainder[1], remainder[2], remainder[3]);
    return summary;
  }
};

KERNEL_TARGET_INLINE void Fetch(const uint8_t* page, size_t line) {
  _mm_prefetch(reinterpret_cast<const char*>(page + kLineBytes * line), _MM_HINT_T0);
}

KERNEL_TARGET_INLINE void LoadLines(const uint8_t* from, __m512i* lines) {
  KERNEL_UNROLL(4)
  for (int i = 0; i < 4; ++i) lines[i] = _mm512_loadu_si512(from + 64 * i);
}

// Sums a page up and copies it to `to`, unless that is null. Brings `next`, unless that is null,
// into the cache meanwhile, a line for each: all at once would fill the line buffers and then leave
// memory idle.
KERNEL_TARGET_INLINE PageSummary SummarizeAndFetch(const uint8_t* page, uint8_t* to,
                                                   const uint8_t* next) {
  const __m512i constants = crc32c_detail::FoldBy<256 * 8>();
  Folder folder;
  for (size_t line = 0; line < kLinesPerPage; line += 4) {
    __m512i lines[4];
    LoadLines(page + 64 * line, lines);
    KERNEL_UNROLL(4)
    for (size_t i = 0; i < 4; ++i) {
      if (to != nullptr) _mm512_storeu_si512(to + 64 * (line + i), lines[i]);
      if (next != nullptr) Fetch(next, line + i);
    }
    if (line == 0) {
      folder.Start(lines);
    } else {
      folder.Add(lines, constants);
    }
  }
  return folder.Finish();
}

}  // namespace
}  // namespace romulus
