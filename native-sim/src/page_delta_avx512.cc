// The AVX-512 form of the page functions (VBMI2 to pack bytes, VPCLMULQDQ for the CRC): Ice Lake,
// Zen 4 and later. This half encodes.
//
// The masks of a page are eight registers of eight 64-bit masks; shifting them as one string of
// 4096 bits (VPSHLDQ across neighbours) gives gaps, run starts and edges for eight lines at a time.
#include "page_delta_avx512.h"

#include <cstring>

#include "crc32c.h"

namespace romulus {
namespace {

constexpr size_t kGroups = kLinesPerPage / 8;

// The pages that come next. Fetching them is spread over the work on this one: all at once would
// fill the line buffers and then leave memory idle. The last lines are left to the hardware's
// prefetcher.
constexpr size_t kLinesFetchedInScan = 16;
struct NextPages {
  const uint8_t* now;
  const uint8_t* old;

  KERNEL_TARGET_INLINE void Fetch(size_t line) const {
    _mm_prefetch(reinterpret_cast<const char*>(now + 64 * line), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(old + 64 * line), _MM_HINT_T0);
  }
};

// Compares and folds in one pass; `masks` receives the changed bytes of each line.
KERNEL_TARGET_INLINE PageSummary Scan(const uint8_t* now, const uint8_t* old, NextPages next,
                                      uint64_t* masks) {
  const __m512i constants = crc32c_detail::FoldBy<256 * 8>();
  Folder folder;
  for (size_t line = 0; line < kLinesPerPage; line += 4) {
    __m512i lines[4];
    LoadLines(now + 64 * line, lines);
    KERNEL_UNROLL(4)
    for (size_t i = 0; i < 4; ++i) {
      if (line < kLinesFetchedInScan) next.Fetch(line + i);
      masks[line + i] =
          _mm512_cmpneq_epi8_mask(lines[i], _mm512_loadu_si512(old + 64 * (line + i)));
    }
    if (line == 0) {
      folder.Start(lines);
    } else {
      folder.Add(lines, constants);
    }
  }
  return folder.Finish();
}

KERNEL_TARGET_INLINE uint64_t NonZeroWords(const __m512i* groups) {
  uint64_t bits = 0;
  KERNEL_UNROLL(8)
  for (size_t group = 0; group < kGroups; ++group) {
    const uint64_t some = _mm512_test_epi64_mask(groups[group], groups[group]);
    bits |= some << (8 * group);
  }
  return bits;
}

KERNEL_TARGET_INLINE uint32_t SumOfPopcounts(const __m512i* groups) {
  __m512i sum = _mm512_setzero_si512();
  KERNEL_UNROLL(8)
  for (size_t group = 0; group < kGroups; ++group) {
    sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(groups[group]));
  }
  return static_cast<uint32_t>(_mm512_reduce_add_epi64(sum));
}

// Sets the bits of every gap of one or two between set bits.
KERNEL_TARGET_INLINE void MergeGaps(const __m512i* changed, __m512i* merged, NextPages next) {
  static_assert(kGapBytesMerged == 2);
  const __m512i none = _mm512_setzero_si512();
  KERNEL_UNROLL(8)
  for (size_t group = 0; group < kGroups; ++group) {
    const __m512i here = changed[group];
    const __m512i lower = group == 0 ? none : changed[group - 1];
    const __m512i upper = group + 1 == kGroups ? none : changed[group + 1];
    const __m512i before = _mm512_alignr_epi64(here, lower, 7);
    const __m512i after = _mm512_alignr_epi64(upper, here, 1);
    const __m512i left1 = _mm512_shldi_epi64(here, before, 1);
    const __m512i left2 = _mm512_shldi_epi64(here, before, 2);
    const __m512i right1 = _mm512_shrdi_epi64(here, after, 1);
    const __m512i right2 = _mm512_shrdi_epi64(here, after, 2);
    // left1 & (right1 | right2), then left2 & right1.
    const __m512i near = _mm512_ternarylogic_epi64(left1, right1, right2, 0xe0);
    const __m512i far = _mm512_and_si512(left2, right1);
    merged[group] = _mm512_ternarylogic_epi64(here, near, far, 0xfe);
    KERNEL_UNROLL(4)
    for (size_t i = 0; i < 4; ++i) next.Fetch(kLinesFetchedInScan + 4 * group + i);
  }
}

// A bit where a run starts or has just ended.
KERNEL_TARGET_INLINE void FindEdges(const __m512i* merged, __m512i* edges) {
  KERNEL_UNROLL(8)
  for (size_t group = 0; group < kGroups; ++group) {
    const __m512i lower = group == 0 ? _mm512_setzero_si512() : merged[group - 1];
    const __m512i before = _mm512_alignr_epi64(merged[group], lower, 7);
    edges[group] = _mm512_xor_si512(merged[group], _mm512_shldi_epi64(merged[group], before, 1));
  }
}

KERNEL_TARGET_INLINE size_t EmitMask(const uint8_t* now, uint8_t* out, const __m512i* changed,
                                     const uint64_t* masks, uint64_t lines) {
  std::memcpy(out, &lines, sizeof lines);
  uint8_t* to = out + 8;
  KERNEL_UNROLL(8)
  for (size_t group = 0; group < kGroups; ++group) {
    const auto some = static_cast<__mmask8>(lines >> (8 * group));
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi64(some, changed[group]));
    to += 8 * static_cast<size_t>(__builtin_popcount(some));
  }
  for (uint64_t rest = lines; rest != 0; rest &= rest - 1) {
    const auto line = static_cast<size_t>(__builtin_ctzll(rest));
    const __m512i data = _mm512_loadu_si512(now + 64 * line);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi8(masks[line], data));
    to += __builtin_popcountll(masks[line]);
  }
  return static_cast<size_t>(to - out);
}

// The first position of each line, twice over, as a broadcast of 32 bits takes it from memory.
constexpr std::array<uint32_t, kLinesPerPage> MakeLineStarts() {
  std::array<uint32_t, kLinesPerPage> starts{};
  for (uint32_t line = 0; line < kLinesPerPage; ++line) starts[line] = 64 * line * 0x10001;
  return starts;
}

// Positions of all edges, in order; the page's end closes a run that reaches it.
KERNEL_TARGET_INLINE size_t ListEdges(const __m512i* edge_groups, uint16_t* positions) {
  alignas(64) uint64_t edges[kLinesPerPage];
  KERNEL_UNROLL(8)
  for (size_t group = 0; group < kGroups; ++group) {
    _mm512_store_si512(edges + 8 * group, edge_groups[group]);
  }
  alignas(64) static constexpr auto kByteIndexes = MakeByteIndexes();
  const __m512i indexes = _mm512_load_si512(kByteIndexes.data());
  static constexpr auto kLineStarts = MakeLineStarts();
  size_t count = 0;
  for (uint64_t rest = NonZeroWords(edge_groups); rest != 0; rest &= rest - 1) {
    const auto line = static_cast<size_t>(__builtin_ctzll(rest));
    const __m512i packed = _mm512_maskz_compress_epi8(edges[line], indexes);
    const __m512i start = _mm512_set1_epi32(static_cast<int>(kLineStarts[line]));
    const auto found = static_cast<size_t>(__builtin_popcountll(edges[line]));
    const __m256i first = _mm256_cvtepu8_epi16(_mm512_castsi512_si128(packed));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(positions + count),
                        _mm256_add_epi16(first, _mm512_castsi512_si256(start)));
    if (found > 16) [[unlikely]] {
      const __m512i low = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(packed));
      const __m512i high = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(packed, 1));
      _mm512_storeu_si512(positions + count, _mm512_add_epi16(low, start));
      _mm512_storeu_si512(positions + count + 32, _mm512_add_epi16(high, start));
    }
    count += found;
  }
  if (count % 2 != 0) positions[count++] = kPageBytes;
  return count;
}

KERNEL_TARGET_INLINE size_t EmitRuns(const uint8_t* now, uint8_t* out, const __m512i* merged,
                                     const __m512i* edges, uint64_t lines) {
  // One zero in front, so that every skip and length is the difference of two neighbours.
  alignas(64) uint16_t positions[32 + 2 * kRunsMax + 1 + 64];
  positions[31] = 0;
  const size_t edge_count = ListEdges(edges, positions + 32);
  uint8_t* to = out;
  for (size_t at = 0; at < edge_count; at += 32) {
    const __m512i values = _mm512_sub_epi16(_mm512_loadu_si512(positions + 32 + at),
                                            _mm512_loadu_si512(positions + 31 + at));
    // LEB128 of one or two bytes: spread over 16 bits, then unused second bytes dropped.
    const __mmask32 is_long = _mm512_cmpgt_epu16_mask(values, _mm512_set1_epi16(127));
    const __m512i low = _mm512_and_si512(values, _mm512_set1_epi16(127));
    const __m512i high = _mm512_slli_epi16(_mm512_srli_epi16(values, 7), 8);
    const __m512i flag = _mm512_maskz_set1_epi16(is_long, 128);
    const size_t left = edge_count - at;
    const auto wanted = static_cast<uint32_t>(left >= 32 ? 64 : 2 * left);
    const uint64_t keep = _bzhi_u64(
        0x5555555555555555u | _pdep_u64(is_long, 0xaaaaaaaaaaaaaaaau), wanted);
    const __m512i spread = _mm512_ternarylogic_epi64(low, high, flag, 0xfe);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi8(keep, spread));
    to += __builtin_popcountll(keep);
  }
  alignas(64) uint64_t run_masks[kLinesPerPage];
  KERNEL_UNROLL(8)
  for (size_t group = 0; group < kGroups; ++group) {
    _mm512_store_si512(run_masks + 8 * group, merged[group]);
  }
  for (uint64_t rest = lines; rest != 0; rest &= rest - 1) {
    const auto line = static_cast<size_t>(__builtin_ctzll(rest));
    const __m512i data = _mm512_loadu_si512(now + 64 * line);
    const __m512i packed = _mm512_maskz_compress_epi8(run_masks[line], data);
    const auto count = __builtin_popcountll(run_masks[line]);
    if (count <= 16) {
      // A wide store nearly always crosses into the next line and takes twice as long.
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_castsi512_si128(packed));
    } else {
      _mm512_storeu_si512(to, packed);
    }
    to += count;
  }
  return static_cast<size_t>(to - out);
}

KERNEL_TARGET_INLINE void CopyPage(const uint8_t* from, uint8_t* to) {
  for (size_t offset = 0; offset < kPageBytes; offset += 64) {
    _mm512_storeu_si512(to + offset, _mm512_loadu_si512(from + offset));
  }
}

// A loop of its own: stores alternating with those to `out` take half as long again.
KERNEL_TARGET_INLINE void UpdateBaseline(const uint8_t* now, uint8_t* baseline, uint64_t lines) {
  for (uint64_t rest = lines; rest != 0; rest &= rest - 1) {
    const auto offset = 64 * static_cast<size_t>(__builtin_ctzll(rest));
    _mm512_storeu_si512(baseline + offset, _mm512_loadu_si512(now + offset));
  }
}

KERNEL_TARGET EncodedPage EncodeDelta(const uint8_t* now, const uint8_t* old, uint8_t* baseline,
                                      uint8_t* out, const uint8_t* next_now,
                                      const uint8_t* next_old) {
  alignas(64) uint64_t masks[kLinesPerPage];
  EncodedPage result;
  result.summary = Scan(now, old, {next_now, next_old}, masks);
  __m512i changed[kGroups];
  KERNEL_UNROLL(8)
  for (size_t group = 0; group < kGroups; ++group) {
    changed[group] = _mm512_load_si512(masks + 8 * group);
  }
  const uint64_t lines = NonZeroWords(changed);
  if (lines == 0) return result;
  if (result.summary.is_zero) {
    result.encoding = kEncodingZero;
    for (uint64_t rest = lines; rest != 0; rest &= rest - 1) {
      _mm512_storeu_si512(baseline + 64 * __builtin_ctzll(rest), _mm512_setzero_si512());
    }
    return result;
  }
  PageMeasure measure;
  measure.changed_bytes = SumOfPopcounts(changed);
  if (measure.changed_bytes > kDeltaBytesMax) {
    // No encoding is smaller than its changed bytes: what ChooseEncoding would find, sooner.
    CopyPage(now, out);
    CopyPage(now, baseline);
    result.encoding = kEncodingRaw;
    result.bytes = kPageBytes;
    return result;
  }
  __m512i merged[kGroups];
  __m512i edges[kGroups];
  MergeGaps(changed, merged, {next_now, next_old});
  FindEdges(merged, edges);
  measure.changed_lines = static_cast<uint32_t>(__builtin_popcountll(lines));
  measure.run_bytes = SumOfPopcounts(merged);
  // Every run has two edges, but for one that ends with the page.
  measure.runs = (SumOfPopcounts(edges) + 1) / 2;
  measure.unchanged_spans = SpansOfZeros(lines);
  result.encoding = ChooseEncoding(measure);
  switch (result.encoding) {
    case kEncodingMask:
      result.bytes = static_cast<uint16_t>(EmitMask(now, out, changed, masks, lines));
      break;
    case kEncodingRuns:
      result.run_count = static_cast<uint8_t>(measure.runs);
      result.bytes = static_cast<uint16_t>(EmitRuns(now, out, merged, edges, lines));
      break;
    default:
      CopyPage(now, out);
      result.bytes = kPageBytes;
  }
  UpdateBaseline(now, baseline, lines);
  return result;
}

}  // namespace

KERNEL_TARGET PageSummary SummarizeAvx512(const uint8_t* page) {
  const __m512i constants = crc32c_detail::FoldBy<256 * 8>();
  Folder folder;
  __m512i lines[4];
  LoadLines(page, lines);
  folder.Start(lines);
  for (size_t offset = 256; offset < kPageBytes; offset += 256) {
    LoadLines(page + offset, lines);
    folder.Add(lines, constants);
  }
  return folder.Finish();
}

KERNEL_TARGET PageSummary CopyAvx512(const uint8_t* from, uint8_t* to, uint8_t* also) {
  const __m512i constants = crc32c_detail::FoldBy<256 * 8>();
  Folder folder;
  for (size_t offset = 0; offset < kPageBytes; offset += 256) {
    __m512i lines[4];
    LoadLines(from + offset, lines);
    KERNEL_UNROLL(4)
    for (size_t i = 0; i < 4; ++i) {
      _mm512_storeu_si512(to + offset + 64 * i, lines[i]);
      if (also != nullptr) __builtin_prefetch(also + offset + 64 * i, 1);
    }
    if (offset == 0) {
      folder.Start(lines);
    } else {
      folder.Add(lines, constants);
    }
  }
  const PageSummary summary = folder.Finish();
  if (also != nullptr && !summary.is_zero) CopyPage(from, also);
  return summary;
}

namespace {

KERNEL_TARGET EncodedPage EncodeFull(const uint8_t* now, uint8_t* baseline, uint8_t* out) {
  EncodedPage result;
  result.summary = CopyAvx512(now, out, baseline);
  result.encoding = result.summary.is_zero ? kEncodingZero : kEncodingRaw;
  result.bytes = result.summary.is_zero ? 0 : kPageBytes;
  return result;
}

}  // namespace

const PageKernel kPageKernelAvx512 = {
    .name = "avx512",
    .encode_delta = EncodeDelta,
    .encode_full = EncodeFull,
    .summarize = SummarizeAvx512,
    .is_valid = IsValidAvx512,
    .apply = ApplyAvx512,
    .crc32c = Crc32cAvx512,
};

}  // namespace romulus
