// The AVX2 form of the page functions (with BMI2 to pack bytes, SSE4.2 for the CRC): Haswell, Zen 3
// and later. (On Zen 1 and 2 PEXT is microcoded: right, but slow.)
#define KERNEL_TARGET __attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt,sse4.2")))

#include "crc32c.h"
#include "page_delta.h"
#include "page_delta_encode_generic.h"
#include "page_delta_simd.h"

namespace romulus {
namespace {

// A byte of ones for each of the eight bits.
KERNEL_TARGET inline uint64_t SpreadBits(uint64_t bits) {
  return _pdep_u64(bits, 0x0101010101010101) * 0xff;
}

struct Avx2Form {
  KERNEL_TARGET static inline uint64_t CompareLine(const uint8_t* now, const uint8_t* old) {
    const auto half = [](const uint8_t* a, const uint8_t* b) KERNEL_TARGET {
      const __m256i equal =
          _mm256_cmpeq_epi8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)),
                            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
      return ~static_cast<uint32_t>(_mm256_movemask_epi8(equal));
    };
    return half(now, old) | static_cast<uint64_t>(half(now + 32, old + 32)) << 32;
  }

  KERNEL_TARGET static inline uint8_t* PackLine(const uint8_t* line, uint64_t mask, uint8_t* to) {
    for (size_t word = 0; word < 8; ++word) {
      const uint64_t bits = mask >> (8 * word) & 0xff;
      const uint64_t packed = _pext_u64(LoadWord(line + 8 * word), SpreadBits(bits));
      std::memcpy(to, &packed, sizeof packed);
      to += __builtin_popcountll(bits);
    }
    return to;
  }

  KERNEL_TARGET static PageSummary Summarize(const uint8_t* page) {
    PageSummary summary;
    __m256i any = _mm256_setzero_si256();
    for (size_t offset = 0; offset < kPageBytes; offset += 32) {
      any = _mm256_or_si256(any,
                            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(page + offset)));
    }
    summary.is_zero = _mm256_testz_si256(any, any) != 0;
    if (!summary.is_zero) summary.crc = Crc32cSse42(0, page, kPageBytes);
    return summary;
  }
};

KERNEL_TARGET EncodedPage EncodeDelta(const uint8_t* now, const uint8_t* old, uint8_t* baseline,
                                      uint8_t* out, const EncodeAhead& ahead) {
  for (size_t offset = 0; offset < kPageBytes; offset += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(ahead.next_now + offset), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(ahead.next_old + offset), _MM_HINT_T0);
  }
  return EncodeDeltaGeneric<Avx2Form>(now, old, baseline, out);
}

KERNEL_TARGET EncodedPage EncodeFull(const uint8_t* now, uint8_t* baseline, uint8_t* out) {
  return EncodeFullGeneric<Avx2Form>(now, baseline, out);
}

KERNEL_TARGET inline void ApplyMask(uint8_t* target, const uint8_t* data, const uint8_t* end) {
  uint64_t lines = LoadWord(data);
  const uint8_t* masks = data + 8;
  const uint8_t* from = masks + 8 * __builtin_popcountll(lines);
  for (; lines != 0; lines &= lines - 1, masks += 8) {
    uint8_t* line = target + 64 * __builtin_ctzll(lines);
    const uint64_t mask = LoadWord(masks);
    for (size_t word = 0; word < 8; ++word) {
      const uint64_t bits = mask >> (8 * word) & 0xff;
      const auto count = static_cast<size_t>(__builtin_popcountll(bits));
      uint64_t packed = 0;
      // Near the end of the data eight bytes may not be there.
      if (end - from >= 8) {
        packed = LoadWord(from);
      } else {
        std::memcpy(&packed, from, count);
      }
      const uint64_t spread = SpreadBits(bits);
      const uint64_t merged =
          (LoadWord(line + 8 * word) & ~spread) | _pdep_u64(packed, spread);
      std::memcpy(line + 8 * word, &merged, sizeof merged);
      from += count;
    }
  }
}

KERNEL_TARGET PageSummary Apply(uint8_t* target, uint8_t encoding, uint8_t run_count,
                                const uint8_t* data, size_t bytes, const uint8_t* next_target) {
  for (size_t offset = 0; offset < kPageBytes; offset += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(next_target + offset), _MM_HINT_T0);
  }
  switch (encoding) {
    case kEncodingZero:
      std::memset(target, 0, kPageBytes);
      return {};
    case kEncodingRaw:
      std::memcpy(target, data, kPageBytes);
      break;
    case kEncodingRuns:
      ApplyRunsGeneric(target, run_count, data);
      break;
    default:
      ApplyMask(target, data, data + bytes);
  }
  return Avx2Form::Summarize(target);
}

KERNEL_TARGET bool IsValid(uint8_t encoding, uint8_t run_count, const uint8_t* data, size_t bytes) {
  return IsValidGeneric(encoding, run_count, data, bytes);
}

}  // namespace

const PageKernel kPageKernelAvx2 = {
    .name = "avx2",
    .encode_delta = EncodeDelta,
    .encode_full = EncodeFull,
    .summarize = Avx2Form::Summarize,
    .is_valid = IsValid,
    .apply = Apply,
    .crc32c = Crc32cSse42,
};

}  // namespace romulus
