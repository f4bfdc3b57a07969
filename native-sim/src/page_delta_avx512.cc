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

// Fetching the next pages is spread over the work on this one: all at once would fill the line
// buffers and then leave memory idle.
constexpr size_t kLinesFetchedInScan = 16;
// A small result goes where the last one has brought the lines already.
constexpr size_t kOutBytesFetchedLeast = 1024;

// Compares and folds in one pass; `masks` receives the changed bytes of each line.
template <bool fetches_out>
KERNEL_TARGET_INLINE PageSummary Scan(const uint8_t* now, const uint8_t* old, const uint8_t* out,
                                      const EncodeAhead& ahead, uint64_t* masks) {
  const __m512i constants = crc32c_detail::FoldBy<256 * 8>();
  Folder folder;
  for (size_t line = 0; line < kLinesPerPage; line += 4) {
    __m512i lines[4];
    LoadLines(now + 64 * line, lines);
    KERNEL_UNROLL(4)
    for (size_t i = 0; i < 4; ++i) {
      if (fetches_out) __builtin_prefetch(out + 64 * (line + i), 1);
      if (line < kLinesFetchedInScan) {
        Fetch(ahead.next_now, line + i);
        Fetch(ahead.next_old, line + i);
      }
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
KERNEL_TARGET_INLINE void MergeGaps(const __m512i* changed, __m512i* merged,
                                    const EncodeAhead& ahead) {
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
    for (size_t i = 0; i < 4; ++i) {
      Fetch(ahead.next_now, kLinesFetchedInScan + 4 * group + i);
      Fetch(ahead.next_old, kLinesFetchedInScan + 4 * group + i);
    }
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

// The masked bytes of each line, packed. Writes up to 63 bytes more.
KERNEL_TARGET_INLINE uint8_t* PackLines(const uint8_t* now, uint8_t* to, const uint64_t* masks,
                                        uint64_t lines) {
  for (uint64_t rest = lines; rest != 0; rest &= rest - 1) {
    const auto line = static_cast<size_t>(__builtin_ctzll(rest));
    const __m512i data = _mm512_loadu_si512(now + 64 * line);
    const __m512i packed = _mm512_maskz_compress_epi8(masks[line], data);
    const auto count = __builtin_popcountll(masks[line]);
    if (count <= 16) {
      // A wide store nearly always crosses into the next line and takes twice as long.
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_castsi512_si128(packed));
    } else {
      _mm512_storeu_si512(to, packed);
    }
    to += count;
  }
  return to;
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
  return static_cast<size_t>(PackLines(now, to, masks, lines) - out);
}

// Edges of a line that a 64-bit word of positions holds, 16 bits each.
constexpr size_t kEdgesPerWord = 4;
// In place of an edge where a line has no more: what counting the zeros below none gives.
constexpr int16_t kNoEdge = 64;
// Lines with edges from which it is quicker to go over all, eight at a time.
constexpr int kLinesManyLeast = 20;
// A page with so many edges more than two for each changed line is still packed run by run.
constexpr size_t kEdgesSpare = 16;

// The lowest edges of each line, which it takes out of `rest`.
KERNEL_TARGET_INLINE __m512i TakeEdges(__m512i* rest) {
  __m512i found[kEdgesPerWord];
  KERNEL_UNROLL(4)
  for (size_t edge = 0; edge < kEdgesPerWord; ++edge) {
    const __m512i less = _mm512_add_epi64(*rest, _mm512_set1_epi64(-1));
    found[edge] = _mm512_popcnt_epi64(_mm512_andnot_si512(*rest, less));
    *rest = _mm512_and_si512(*rest, less);
  }
  const __m512i low = _mm512_or_si512(found[0], _mm512_slli_epi64(found[1], 16));
  return _mm512_ternarylogic_epi64(low, _mm512_slli_epi64(found[2], 32),
                                   _mm512_slli_epi64(found[3], 48), 0xfe);
}

// Stores the edges among `found`, each moved by where its line starts. Returns how many they are.
KERNEL_TARGET_INLINE size_t StoreEdges(__m512i found, __m512i starts, uint16_t* positions) {
  const __mmask32 is_edge = _mm512_cmpneq_epi16_mask(found, _mm512_set1_epi16(kNoEdge));
  const __m512i moved = _mm512_add_epi16(found, starts);
  _mm512_storeu_si512(positions, _mm512_maskz_compress_epi16(is_edge, moved));
  return static_cast<size_t>(__builtin_popcount(is_edge));
}

// 16-bit starts of lines that follow one another, each `times` times.
template <size_t times, size_t count>
constexpr std::array<uint16_t, count> MakeLineStarts() {
  std::array<uint16_t, count> starts{};
  for (size_t at = 0; at < count; ++at) {
    starts[at] = static_cast<uint16_t>(kLineBytes * (at / times));
  }
  return starts;
}

// Positions of all edges, one line after the other.
KERNEL_TARGET_INLINE size_t ListEdgesByLine(const uint64_t* edges, uint64_t lines,
                                            uint16_t* positions) {
  alignas(64) static constexpr auto kByteIndexes = MakeByteIndexes();
  static constexpr auto kStarts = MakeLineStarts<2, 2 * kLinesPerPage>();
  const __m512i indexes = _mm512_load_si512(kByteIndexes.data());
  size_t count = 0;
  for (uint64_t rest = lines; rest != 0; rest &= rest - 1) {
    const auto line = static_cast<size_t>(__builtin_ctzll(rest));
    const __m512i packed = _mm512_maskz_compress_epi8(edges[line], indexes);
    // Twice over, as a broadcast of 32 bits takes it from memory.
    uint32_t both;
    std::memcpy(&both, kStarts.data() + 2 * line, sizeof both);
    const __m512i start = _mm512_set1_epi32(static_cast<int>(both));
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
  return count;
}

// Positions of all edges, in order; the page's end closes a run that reaches it.
KERNEL_TARGET_INLINE size_t ListEdges(const __m512i* edge_groups, uint16_t* positions) {
  alignas(64) static constexpr auto kStarts = MakeLineStarts<kEdgesPerWord, 32>();
  alignas(64) uint64_t edges[kLinesPerPage];
  __m512i most = _mm512_setzero_si512();
  KERNEL_UNROLL(8)
  for (size_t group = 0; group < kGroups; ++group) {
    _mm512_store_si512(edges + 8 * group, edge_groups[group]);
    most = _mm512_max_epu64(most, _mm512_popcnt_epi64(edge_groups[group]));
  }
  const uint64_t lines = NonZeroWords(edge_groups);
  size_t count = 0;
  const bool are_few = _mm512_cmpgt_epu64_mask(most, _mm512_set1_epi64(kEdgesPerWord)) == 0;
  if (are_few && __builtin_popcountll(lines) >= kLinesManyLeast) {
    __m512i starts = _mm512_load_si512(kStarts.data());
    KERNEL_UNROLL(8)
    for (size_t group = 0; group < kGroups; ++group) {
      __m512i rest = edge_groups[group];
      count += StoreEdges(TakeEdges(&rest), starts, positions + count);
      starts = _mm512_add_epi16(starts, _mm512_set1_epi16(8 * kLineBytes));
    }
  } else {
    count = ListEdgesByLine(edges, lines, positions);
  }
  if (count % 2 != 0) positions[count++] = kPageBytes;
  return count;
}

// A loop of its own: stores alternating with those to `out` take half as long again.
KERNEL_TARGET_INLINE void UpdateBaseline(const uint8_t* now, uint8_t* baseline, uint64_t lines) {
  for (uint64_t rest = lines; rest != 0; rest &= rest - 1) {
    const auto offset = 64 * static_cast<size_t>(__builtin_ctzll(rest));
    _mm512_storeu_si512(baseline + offset, _mm512_loadu_si512(now + offset));
  }
}

// The bytes of runs, run by run: the quicker way where a line has hardly more than one of them.
// Writes up to 63 bytes more.
KERNEL_TARGET_INLINE uint8_t* PackRuns(const uint8_t* now, uint8_t* to, const uint16_t* edges,
                                       size_t edge_count) {
  for (size_t at = 0; at < edge_count; at += 2) {
    const size_t start = edges[at];
    const size_t length = edges[at + 1] - start;
    const uint8_t* from = now + start;
    auto* first = reinterpret_cast<__m128i*>(to);
    if (start > kPageBytes - sizeof *first) [[unlikely]] {
      const auto wanted = static_cast<__mmask16>((1u << length) - 1);
      _mm_storeu_si128(first, _mm_maskz_loadu_epi8(wanted, from));
    } else {
      _mm_storeu_si128(first, _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
      for (size_t done = sizeof *first; done < length; done += 64) {
        const size_t left = length - done;
        const __mmask64 wanted = _bzhi_u64(~0ull, static_cast<uint32_t>(left < 64 ? left : 64));
        _mm512_storeu_si512(to + done, _mm512_maskz_loadu_epi8(wanted, from + done));
      }
    }
    to += length;
  }
  return to;
}

// Brings the baseline up to date too.
KERNEL_TARGET_INLINE size_t EmitRuns(const uint8_t* now, uint8_t* baseline, uint8_t* out,
                                     const __m512i* merged, const __m512i* edges,
                                     uint64_t lines) {
  // One zero in front, so that every skip and length is the difference of two neighbours.
  alignas(64) uint16_t positions[32 + 2 * kRunsMax + 1 + 64];
  positions[31] = 0;
  const size_t edge_count = ListEdges(edges, positions + 32);
  // Here, so that the positions have reached the cache when they are read in other pieces than they
  // were written in.
  UpdateBaseline(now, baseline, lines);
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
  const auto changed_lines = static_cast<size_t>(__builtin_popcountll(lines));
  if (edge_count <= 2 * changed_lines + kEdgesSpare) {
    to = PackRuns(now, to, positions + 32, edge_count);
  } else {
    alignas(64) uint64_t run_masks[kLinesPerPage];
    KERNEL_UNROLL(8)
    for (size_t group = 0; group < kGroups; ++group) {
      _mm512_store_si512(run_masks + 8 * group, merged[group]);
    }
    to = PackLines(now, to, run_masks, lines);
  }
  return static_cast<size_t>(to - out);
}

KERNEL_TARGET_INLINE void CopyPage(const uint8_t* from, uint8_t* to) {
  for (size_t offset = 0; offset < kPageBytes; offset += 64) {
    _mm512_storeu_si512(to + offset, _mm512_loadu_si512(from + offset));
  }
}

// The lines of `next` that the scan did not fetch follow meanwhile.
KERNEL_TARGET_INLINE void CopyPageAndFetch(const uint8_t* from, uint8_t* to, const uint8_t* next) {
  for (size_t line = 0; line < kLinesPerPage; ++line) {
    _mm512_storeu_si512(to + 64 * line, _mm512_loadu_si512(from + 64 * line));
    if (line >= kLinesFetchedInScan) Fetch(next, line);
  }
}

KERNEL_TARGET EncodedPage EncodeDelta(const uint8_t* now, const uint8_t* old, uint8_t* baseline,
                                      uint8_t* out, const EncodeAhead& ahead) {
  alignas(64) uint64_t masks[kLinesPerPage];
  EncodedPage result;
  result.summary = ahead.out_bytes < kOutBytesFetchedLeast
                       ? Scan<false>(now, old, out, ahead, masks)
                       : Scan<true>(now, old, out, ahead, masks);
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
    CopyPageAndFetch(now, out, ahead.next_now);
    CopyPageAndFetch(now, baseline, ahead.next_old);
    result.encoding = kEncodingRaw;
    result.bytes = kPageBytes;
    return result;
  }
  __m512i merged[kGroups];
  __m512i edges[kGroups];
  MergeGaps(changed, merged, ahead);
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
      UpdateBaseline(now, baseline, lines);
      break;
    case kEncodingRuns:
      result.run_count = static_cast<uint8_t>(measure.runs);
      result.bytes = static_cast<uint16_t>(EmitRuns(now, baseline, out, merged, edges, lines));
      break;
    default:
      CopyPage(now, out);
      result.bytes = kPageBytes;
      UpdateBaseline(now, baseline, lines);
  }
  return result;
}

KERNEL_TARGET PageSummary Summarize(const uint8_t* page) {
  return SummarizeAndFetch(page, nullptr, nullptr);
}

KERNEL_TARGET EncodedPage EncodeFull(const uint8_t* now, uint8_t* baseline, uint8_t* out) {
  EncodedPage result;
  result.summary = SummarizeAndFetch(now, out, baseline);
  result.encoding = result.summary.is_zero ? kEncodingZero : kEncodingRaw;
  result.bytes = result.summary.is_zero ? 0 : kPageBytes;
  if (baseline != nullptr && !result.summary.is_zero) CopyPage(now, baseline);
  return result;
}

}  // namespace

const PageKernel kPageKernelAvx512 = {
    .name = "avx512",
    .encode_delta = EncodeDelta,
    .encode_full = EncodeFull,
    .summarize = Summarize,
    .is_valid = IsValidAvx512,
    .apply = ApplyAvx512,
    .crc32c = Crc32cAvx512,
};

}  // namespace romulus
