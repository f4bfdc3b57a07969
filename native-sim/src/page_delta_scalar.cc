// The form of the page functions for any processor: words of 64 bits, no vectors.
#define KERNEL_TARGET

#include "crc32c.h"
#include "page_delta.h"
#include "page_delta_encode_generic.h"

namespace romulus {
namespace {

struct ScalarForm {
  static uint64_t CompareLine(const uint8_t* now, const uint8_t* old) {
    constexpr uint64_t kLow7 = 0x7f7f7f7f7f7f7f7f;
    uint64_t mask = 0;
    for (size_t word = 0; word < 8; ++word) {
      const uint64_t difference = LoadWord(now + 8 * word) ^ LoadWord(old + 8 * word);
      // The top bit of each byte that is not zero, then these eight bits side by side.
      const uint64_t tops = (((difference & kLow7) + kLow7) | difference) & ~kLow7;
      mask |= ((tops >> 7) * 0x0102040810204080 >> 56) << (8 * word);
    }
    return mask;
  }

  static uint8_t* PackLine(const uint8_t* line, uint64_t mask, uint8_t* to) {
    for (size_t byte = 0; byte < kLineBytes; ++byte) {
      *to = line[byte];
      to += mask >> byte & 1;
    }
    return to;
  }

  static PageSummary Summarize(const uint8_t* page) {
    PageSummary summary;
    uint64_t any = 0;
    for (size_t offset = 0; offset < kPageBytes; offset += 8) any |= LoadWord(page + offset);
    summary.is_zero = any == 0;
    if (!summary.is_zero) summary.crc = Crc32cSoftware(0, page, kPageBytes);
    return summary;
  }
};

EncodedPage EncodeDelta(const uint8_t* now, const uint8_t* old, uint8_t* baseline, uint8_t* out,
                        const EncodeAhead&) {
  return EncodeDeltaGeneric<ScalarForm>(now, old, baseline, out);
}

EncodedPage EncodeFull(const uint8_t* now, uint8_t* baseline, uint8_t* out) {
  return EncodeFullGeneric<ScalarForm>(now, baseline, out);
}

PageSummary Apply(uint8_t* target, uint8_t encoding, uint8_t run_count, const uint8_t* data, size_t,
                  const uint8_t*) {
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
    default: {
      uint64_t lines = LoadWord(data);
      const uint8_t* masks = data + 8;
      const uint8_t* from = masks + 8 * __builtin_popcountll(lines);
      for (; lines != 0; lines &= lines - 1, masks += 8) {
        uint8_t* line = target + 64 * __builtin_ctzll(lines);
        for (uint64_t mask = LoadWord(masks); mask != 0; mask &= mask - 1) {
          line[__builtin_ctzll(mask)] = *from++;
        }
      }
    }
  }
  return ScalarForm::Summarize(target);
}

}  // namespace

const PageKernel kPageKernelScalar = {
    .name = "scalar",
    .encode_delta = EncodeDelta,
    .encode_full = EncodeFull,
    .summarize = ScalarForm::Summarize,
    .is_valid = IsValidGeneric,
    .apply = Apply,
    .crc32c = Crc32cSoftware,
};

}  // namespace romulus
