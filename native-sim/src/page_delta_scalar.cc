// The form of the page functions for any processor: words of 64 bits, no vectors.
#define KERNEL_TARGET

#include "crc32c.h"
#include "page_delta.h"
#include "page_delta_generic.h"

namespace romulus {
namespace {

uint64_t CompareLine(const uint8_t* now, const uint8_t* old) {
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

uint8_t* PackLine(const uint8_t* line, uint64_t mask, uint8_t* to) {
  for (size_t byte = 0; byte < kLineBytes; ++byte) {
    *to = line[byte];
    to += mask >> byte & 1;
  }
  return to;
}

PageSummary Summarize(const uint8_t* page) {
  PageSummary summary;
  uint64_t any = 0;
  for (size_t offset = 0; offset < kPageBytes; offset += 8) any |= LoadWord(page + offset);
  summary.is_zero = any == 0;
  if (!summary.is_zero) summary.crc = Crc32cSoftware(0, page, kPageBytes);
  return summary;
}

// One zero mask before the first line and one after the last, so that neighbours always exist.
struct LineMasks {
  uint64_t words[1 + kLinesPerPage + 1] = {};

  uint64_t& operator[](size_t line) { return words[1 + line]; }
  uint64_t Before(size_t line) const { return words[line]; }
  uint64_t After(size_t line) const { return words[line + 2]; }
};

void MergeGaps(LineMasks& changed, uint64_t lines, LineMasks& merged) {
  static_assert(kGapBytesMerged == 2);
  for (uint64_t rest = lines; rest != 0; rest &= rest - 1) {
    const auto line = static_cast<size_t>(__builtin_ctzll(rest));
    const uint64_t here = changed[line];
    const uint64_t before = changed.Before(line);
    const uint64_t after = changed.After(line);
    const uint64_t left1 = here << 1 | before >> 63;
    const uint64_t left2 = here << 2 | before >> 62;
    const uint64_t right1 = here >> 1 | after << 63;
    const uint64_t right2 = here >> 2 | after << 62;
    merged[line] = here | (left1 & (right1 | right2)) | (left2 & right1);
  }
}

// Positions where runs start and end, in order. Returns how many.
size_t ListEdges(LineMasks& merged, uint16_t* positions) {
  size_t count = 0;
  for (size_t line = 0; line < kLinesPerPage; ++line) {
    uint64_t edges = merged[line] ^ (merged[line] << 1 | merged.Before(line) >> 63);
    for (; edges != 0; edges &= edges - 1) {
      positions[count++] = static_cast<uint16_t>(64 * line + __builtin_ctzll(edges));
    }
  }
  if (count % 2 != 0) positions[count++] = kPageBytes;
  return count;
}

uint8_t* EmitLines(const uint8_t* now, uint8_t* baseline, uint64_t lines, LineMasks& masks,
                   uint8_t* to) {
  for (uint64_t rest = lines; rest != 0; rest &= rest - 1) {
    const auto line = static_cast<size_t>(__builtin_ctzll(rest));
    to = PackLine(now + 64 * line, masks[line], to);
    std::memcpy(baseline + 64 * line, now + 64 * line, 64);
  }
  return to;
}

uint8_t* EmitLeb128(uint32_t value, uint8_t* to) {
  if (value >= 128) {
    *to++ = static_cast<uint8_t>(value | 128);
    value >>= 7;
  }
  *to++ = static_cast<uint8_t>(value);
  return to;
}

EncodedPage EncodeDelta(const uint8_t* now, const uint8_t* old, uint8_t* baseline, uint8_t* out,
                        const EncodeAhead&) {
  EncodedPage result;
  LineMasks changed;
  PageMeasure measure;
  uint64_t lines = 0;
  for (size_t line = 0; line < kLinesPerPage; ++line) {
    const uint64_t mask = CompareLine(now + 64 * line, old + 64 * line);
    changed[line] = mask;
    lines |= static_cast<uint64_t>(mask != 0) << line;
    measure.changed_bytes += static_cast<uint32_t>(__builtin_popcountll(mask));
  }
  if (lines == 0) return result;
  result.summary = Summarize(now);
  if (result.summary.is_zero) {
    result.encoding = kEncodingZero;
    for (uint64_t rest = lines; rest != 0; rest &= rest - 1) {
      std::memset(baseline + 64 * __builtin_ctzll(rest), 0, 64);
    }
    return result;
  }
  LineMasks merged;
  MergeGaps(changed, lines, merged);
  uint32_t edges = 0;
  for (size_t line = 0; line < kLinesPerPage; ++line) {
    const uint64_t mask = merged[line];
    measure.run_bytes += static_cast<uint32_t>(__builtin_popcountll(mask));
    edges += static_cast<uint32_t>(
        __builtin_popcountll(mask ^ (mask << 1 | merged.Before(line) >> 63)));
  }
  measure.changed_lines = static_cast<uint32_t>(__builtin_popcountll(lines));
  measure.runs = (edges + 1) / 2;
  measure.unchanged_spans = SpansOfZeros(lines);
  result.encoding = ChooseEncoding(measure);
  uint8_t* to = out;
  if (result.encoding == kEncodingMask) {
    std::memcpy(to, &lines, sizeof lines);
    to += 8;
    for (uint64_t rest = lines; rest != 0; rest &= rest - 1, to += 8) {
      std::memcpy(to, &changed[static_cast<size_t>(__builtin_ctzll(rest))], 8);
    }
    to = EmitLines(now, baseline, lines, changed, to);
  } else if (result.encoding == kEncodingRuns) {
    uint16_t positions[2 * kRunsMax + 1];
    const size_t count = ListEdges(merged, positions);
    uint32_t previous = 0;
    for (size_t edge = 0; edge < count; ++edge) {
      to = EmitLeb128(positions[edge] - previous, to);
      previous = positions[edge];
    }
    to = EmitLines(now, baseline, lines, merged, to);
    result.run_count = static_cast<uint8_t>(measure.runs);
  } else {
    std::memcpy(to, now, kPageBytes);
    std::memcpy(baseline, now, kPageBytes);
    to += kPageBytes;
  }
  result.bytes = static_cast<uint16_t>(to - out);
  return result;
}

EncodedPage EncodeFull(const uint8_t* now, uint8_t* baseline, uint8_t* out) {
  EncodedPage result;
  result.summary = Summarize(now);
  result.encoding = result.summary.is_zero ? kEncodingZero : kEncodingRaw;
  result.bytes = result.summary.is_zero ? 0 : kPageBytes;
  if (result.summary.is_zero) return result;
  std::memcpy(out, now, kPageBytes);
  if (baseline != nullptr) std::memcpy(baseline, now, kPageBytes);
  return result;
}

void ApplyRuns(uint8_t* target, uint8_t run_count, const uint8_t* data) {
  const uint8_t* from = data + RunHeaderBytes(run_count, data);
  const uint8_t* header = data;
  uint8_t* to = target;
  for (uint32_t run = 0; run < run_count; ++run) {
    to += TakeLeb128(header);
    const uint32_t length = TakeLeb128(header);
    std::memcpy(to, from, length);
    to += length;
    from += length;
  }
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
      ApplyRuns(target, run_count, data);
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
  return Summarize(target);
}

}  // namespace

const PageKernel kPageKernelScalar = {
    .name = "scalar",
    .encode_delta = EncodeDelta,
    .encode_full = EncodeFull,
    .summarize = Summarize,
    .is_valid = IsValidGeneric,
    .apply = Apply,
    .crc32c = Crc32cSoftware,
};

}  // namespace romulus
