// The encoder of the forms without AVX-512: masks line by line, then the same decisions.
//
// The including file defines KERNEL_TARGET and passes a `Form` with
//   uint64_t CompareLine(now, old)       bit per changed byte
//   uint8_t* PackLine(line, mask, to)    the masked bytes, packed; may write up to 8 bytes beyond
//   PageSummary Summarize(page)
#pragma once

#include "page_delta_generic.h"

namespace romulus {
namespace {

// One zero mask before the first line and one after the last, so that neighbours always exist.
struct LineMasks {
  uint64_t words[1 + kLinesPerPage + 1] = {};

  KERNEL_TARGET uint64_t& operator[](size_t line) { return words[1 + line]; }
  KERNEL_TARGET uint64_t Before(size_t line) const { return words[line]; }
  KERNEL_TARGET uint64_t After(size_t line) const { return words[line + 2]; }
};

KERNEL_TARGET inline void MergeGapsGeneric(LineMasks& changed, uint64_t lines, LineMasks& merged) {
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

// Positions where runs start and end, in order. Returns how many; stops counting past the bound.
KERNEL_TARGET inline size_t ListEdgesGeneric(LineMasks& merged, uint16_t* positions) {
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

template <typename Form>
KERNEL_TARGET inline uint8_t* EmitLines(const uint8_t* now, uint8_t* baseline, uint64_t lines,
                                        LineMasks& masks, uint8_t* to) {
  for (uint64_t rest = lines; rest != 0; rest &= rest - 1) {
    const auto line = static_cast<size_t>(__builtin_ctzll(rest));
    to = Form::PackLine(now + 64 * line, masks[line], to);
    std::memcpy(baseline + 64 * line, now + 64 * line, 64);
  }
  return to;
}

KERNEL_TARGET inline uint8_t* EmitLeb128(uint32_t value, uint8_t* to) {
  if (value >= 128) {
    *to++ = static_cast<uint8_t>(value | 128);
    value >>= 7;
  }
  *to++ = static_cast<uint8_t>(value);
  return to;
}

template <typename Form>
KERNEL_TARGET inline EncodedPage EncodeDeltaGeneric(const uint8_t* now, const uint8_t* old,
                                                    uint8_t* baseline, uint8_t* out) {
  EncodedPage result;
  LineMasks changed;
  PageMeasure measure;
  uint64_t lines = 0;
  for (size_t line = 0; line < kLinesPerPage; ++line) {
    const uint64_t mask = Form::CompareLine(now + 64 * line, old + 64 * line);
    changed[line] = mask;
    lines |= static_cast<uint64_t>(mask != 0) << line;
    measure.changed_bytes += static_cast<uint32_t>(__builtin_popcountll(mask));
  }
  if (lines == 0) return result;
  result.summary = Form::Summarize(now);
  if (result.summary.is_zero) {
    result.encoding = kEncodingZero;
    for (uint64_t rest = lines; rest != 0; rest &= rest - 1) {
      std::memset(baseline + 64 * __builtin_ctzll(rest), 0, 64);
    }
    return result;
  }
  LineMasks merged;
  MergeGapsGeneric(changed, lines, merged);
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
    to = EmitLines<Form>(now, baseline, lines, changed, to);
  } else if (result.encoding == kEncodingRuns) {
    uint16_t positions[2 * kRunsMax + 1];
    const size_t count = ListEdgesGeneric(merged, positions);
    uint32_t previous = 0;
    for (size_t edge = 0; edge < count; ++edge) {
      to = EmitLeb128(positions[edge] - previous, to);
      previous = positions[edge];
    }
    to = EmitLines<Form>(now, baseline, lines, merged, to);
    result.run_count = static_cast<uint8_t>(measure.runs);
  } else {
    std::memcpy(to, now, kPageBytes);
    std::memcpy(baseline, now, kPageBytes);
    to += kPageBytes;
  }
  result.bytes = static_cast<uint16_t>(to - out);
  return result;
}

template <typename Form>
KERNEL_TARGET inline EncodedPage EncodeFullGeneric(const uint8_t* now, uint8_t* baseline,
                                                   uint8_t* out) {
  EncodedPage result;
  result.summary = Form::Summarize(now);
  result.encoding = result.summary.is_zero ? kEncodingZero : kEncodingRaw;
  result.bytes = result.summary.is_zero ? 0 : kPageBytes;
  if (result.summary.is_zero) return result;
  std::memcpy(out, now, kPageBytes);
  if (baseline != nullptr) std::memcpy(baseline, now, kPageBytes);
  return result;
}

}  // namespace
}  // namespace romulus
