// The AVX-512 form of the page functions (VBMI2 to pack bytes, VPCLMULQDQ for the CRC): Ice Lake, Zen 4
// and later.
//
// The masks of a page are eight registers of eight 64-bit masks; shifting them as one string of 4096 bits
// (VPSHLDQ across neighbours) gives gaps, run starts and edges for eight lines at a time.
#define KERNEL_TARGET                                                                      \
  __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,"  \
                        "avx512vpopcntdq,vpclmulqdq,pclmul,sse4.2,bmi,bmi2,lzcnt,popcnt")))

#include <cstring>

#include "crc32c.h"
#include "crc32c_fold.h"
#include "page_delta.h"
#include "page_delta_generic.h"
#include "page_delta_simd.h"

#define TARGET KERNEL_TARGET
#define TARGET_INLINE TARGET __attribute__((always_inline)) inline

namespace romulus {
namespace {

using namespace crc32c_detail;

constexpr size_t kGroups = kLinesPerPage / 8;
constexpr uint32_t kCrcSeed = 0xffffffff;

// Four lines at a time into four independent CRC remainders.
struct Folder {
  __m512i remainder[4];
  __m512i any;

  TARGET_INLINE void Start(const __m512i* lines) {
    any = _mm512_setzero_si512();
    for (int i = 0; i < 4; ++i) {
      remainder[i] = lines[i];
      any = _mm512_or_si512(any, lines[i]);
    }
    remainder[0] = _mm512_xor_si512(remainder[0], FoldSeed(kCrcSeed));
  }

  TARGET_INLINE void Add(const __m512i* lines, __m512i constants) {
    for (int i = 0; i < 4; ++i) remainder[i] = Fold(remainder[i], constants, lines[i]);
    any = _mm512_or_si512(_mm512_ternarylogic_epi64(any, lines[0], lines[1], 0xfe),
                          _mm512_or_si512(lines[2], lines[3]));
  }

  TARGET_INLINE PageSummary Finish() const {
    PageSummary summary;
    summary.is_zero = _mm512_test_epi64_mask(any, any) == 0;
    summary.crc = ~FoldFinish(remainder[0], remainder[1], remainder[2], remainder[3]);
    return summary;
  }
};

TARGET_INLINE void LoadLines(const uint8_t* from, __m512i* lines) {
  for (int i = 0; i < 4; ++i) lines[i] = _mm512_loadu_si512(from + 64 * i);
}

TARGET PageSummary Summarize(const uint8_t* page) {
  const __m512i constants = FoldBy<256 * 8>();
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

// Compares, folds and prefetches in one pass; `masks` receives the changed bytes of each line.
TARGET_INLINE PageSummary Scan(const uint8_t* now, const uint8_t* old, const uint8_t* next_now,
                               const uint8_t* next_old, uint64_t* masks) {
  const __m512i constants = FoldBy<256 * 8>();
  Folder folder;
  for (size_t line = 0; line < kLinesPerPage; line += 4) {
    __m512i lines[4];
    LoadLines(now + 64 * line, lines);
    for (size_t i = 0; i < 4; ++i) {
      _mm_prefetch(reinterpret_cast<const char*>(next_now + 64 * (line + i)), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(next_old + 64 * (line + i)), _MM_HINT_T0);
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

TARGET_INLINE uint64_t NonZeroWords(const __m512i* groups) {
  uint64_t bits = 0;
  for (size_t group = 0; group < kGroups; ++group) {
    const uint64_t some = _mm512_test_epi64_mask(groups[group], groups[group]);
    bits |= some << (8 * group);
  }
  return bits;
}

TARGET_INLINE uint32_t SumOfPopcounts(const __m512i* groups) {
  __m512i sum = _mm512_setzero_si512();
  for (size_t group = 0; group < kGroups; ++group) {
    sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(groups[group]));
  }
  return static_cast<uint32_t>(_mm512_reduce_add_epi64(sum));
}

// Sets the bits of every gap of one or two between set bits.
TARGET_INLINE void MergeGaps(const __m512i* changed, __m512i* merged) {
  static_assert(kGapBytesMerged == 2);
  const __m512i none = _mm512_setzero_si512();
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
  }
}

// A bit where a run starts or has just ended.
TARGET_INLINE void FindEdges(const __m512i* merged, __m512i* edges) {
  for (size_t group = 0; group < kGroups; ++group) {
    const __m512i lower = group == 0 ? _mm512_setzero_si512() : merged[group - 1];
    const __m512i before = _mm512_alignr_epi64(merged[group], lower, 7);
    edges[group] = _mm512_xor_si512(merged[group], _mm512_shldi_epi64(merged[group], before, 1));
  }
}

TARGET_INLINE size_t EmitMask(const uint8_t* now, uint8_t* out, const __m512i* changed, const uint64_t* masks, uint64_t lines) {
  std::memcpy(out, &lines, sizeof lines);
  uint8_t* to = out + 8;
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

// Positions of all edges, in order; the page's end closes a run that reaches it.
TARGET_INLINE size_t ListEdges(const __m512i* edge_groups, uint16_t* positions) {
  alignas(64) uint64_t edges[kLinesPerPage];
  for (size_t group = 0; group < kGroups; ++group) {
    _mm512_store_si512(edges + 8 * group, edge_groups[group]);
  }
  alignas(64) static constexpr auto kByteIndexes = MakeByteIndexes();
  const __m512i indexes = _mm512_load_si512(kByteIndexes.data());
  size_t count = 0;
  for (uint64_t rest = NonZeroWords(edge_groups); rest != 0; rest &= rest - 1) {
    const auto line = static_cast<size_t>(__builtin_ctzll(rest));
    const __m512i packed = _mm512_maskz_compress_epi8(edges[line], indexes);
    const __m512i start = _mm512_set1_epi16(static_cast<short>(64 * line));
    const __m512i low = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(packed));
    _mm512_storeu_si512(positions + count, _mm512_add_epi16(low, start));
    const auto found = static_cast<size_t>(__builtin_popcountll(edges[line]));
    if (found > 32) {
      const __m512i high = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(packed, 1));
      _mm512_storeu_si512(positions + count + 32, _mm512_add_epi16(high, start));
    }
    count += found;
  }
  if (count % 2 != 0) positions[count++] = kPageBytes;
  return count;
}

TARGET_INLINE size_t EmitRuns(const uint8_t* now, uint8_t* out, const __m512i* merged, const __m512i* edges, uint64_t lines) {
  // One zero in front, so that every skip and length is the difference of two neighbours.
  alignas(64) uint16_t positions[32 + 2 * kRunsMax + 1 + 64];
  positions[31] = 0;
  const size_t count = ListEdges(edges, positions + 32);
  uint8_t* to = out;
  for (size_t at = 0; at < count; at += 32) {
    const __m512i values = _mm512_sub_epi16(_mm512_loadu_si512(positions + 32 + at),
                                            _mm512_loadu_si512(positions + 31 + at));
    // LEB128 of one or two bytes: spread over 16 bits, then unused second bytes dropped.
    const __mmask32 is_long = _mm512_cmpgt_epu16_mask(values, _mm512_set1_epi16(127));
    const __m512i low = _mm512_and_si512(values, _mm512_set1_epi16(127));
    const __m512i high = _mm512_slli_epi16(_mm512_srli_epi16(values, 7), 8);
    const __m512i flag = _mm512_maskz_set1_epi16(is_long, 128);
    const size_t left = count - at;
    const auto wanted = static_cast<uint32_t>(left >= 32 ? 64 : 2 * left);
    const uint64_t keep = _bzhi_u64(
        0x5555555555555555u | _pdep_u64(is_long, 0xaaaaaaaaaaaaaaaau), wanted);
    const __m512i spread = _mm512_ternarylogic_epi64(low, high, flag, 0xfe);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi8(keep, spread));
    to += __builtin_popcountll(keep);
  }
  alignas(64) uint64_t run_masks[kLinesPerPage];
  for (size_t group = 0; group < kGroups; ++group) {
    _mm512_store_si512(run_masks + 8 * group, merged[group]);
  }
  for (uint64_t rest = lines; rest != 0; rest &= rest - 1) {
    const auto line = static_cast<size_t>(__builtin_ctzll(rest));
    const __m512i data = _mm512_loadu_si512(now + 64 * line);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi8(run_masks[line], data));
    to += __builtin_popcountll(run_masks[line]);
  }
  return static_cast<size_t>(to - out);
}

TARGET_INLINE void CopyPage(const uint8_t* from, uint8_t* to) {
  for (size_t offset = 0; offset < kPageBytes; offset += 64) {
    _mm512_storeu_si512(to + offset, _mm512_loadu_si512(from + offset));
  }
}

// A loop of its own: stores alternating with those to `out` take half as long again.
TARGET_INLINE void UpdateBaseline(const uint8_t* now, uint8_t* baseline, uint64_t lines) {
  for (uint64_t rest = lines; rest != 0; rest &= rest - 1) {
    const auto offset = 64 * static_cast<size_t>(__builtin_ctzll(rest));
    _mm512_storeu_si512(baseline + offset, _mm512_loadu_si512(now + offset));
  }
}

TARGET EncodedPage EncodeDelta(const uint8_t* now, const uint8_t* old, uint8_t* baseline,
                               uint8_t* out, const uint8_t* next_now, const uint8_t* next_old) {
  alignas(64) uint64_t masks[kLinesPerPage];
  EncodedPage result;
  result.summary = Scan(now, old, next_now, next_old, masks);
  __m512i changed[kGroups];
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
  MergeGaps(changed, merged);
  FindEdges(merged, edges);
  measure.changed_lines = static_cast<uint32_t>(__builtin_popcountll(lines));
  measure.run_bytes = SumOfPopcounts(merged);
  // Every run has two edges, but for one that ends with the page.
  measure.runs = (SumOfPopcounts(edges) + 1) / 2;
  measure.unchanged_spans = SpansOfZeros(lines);
  result.encoding = ChooseEncoding(measure);
  switch (result.encoding) {
    case kEncodingMask:
      result.bytes =
          static_cast<uint16_t>(EmitMask(now, out, changed, masks, lines));
      break;
    case kEncodingRuns:
      result.run_count = static_cast<uint8_t>(measure.runs);
      result.bytes =
          static_cast<uint16_t>(EmitRuns(now, out, merged, edges, lines));
      break;
    default:
      CopyPage(now, out);
      result.bytes = kPageBytes;
  }
  UpdateBaseline(now, baseline, lines);
  return result;
}

TARGET EncodedPage EncodeFull(const uint8_t* now, uint8_t* out) {
  const __m512i constants = FoldBy<256 * 8>();
  Folder folder;
  for (size_t offset = 0; offset < kPageBytes; offset += 256) {
    __m512i lines[4];
    LoadLines(now + offset, lines);
    for (int i = 0; i < 4; ++i) _mm512_storeu_si512(out + offset + 64 * i, lines[i]);
    if (offset == 0) {
      folder.Start(lines);
    } else {
      folder.Add(lines, constants);
    }
  }
  EncodedPage result;
  result.summary = folder.Finish();
  result.encoding = result.summary.is_zero ? kEncodingZero : kEncodingRaw;
  result.bytes = result.summary.is_zero ? 0 : kPageBytes;
  return result;
}

// Headers of one byte each, which is nearly always so, are checked 64 at a time; others one by one.
TARGET bool IsValidRuns(uint8_t run_count, const uint8_t* data, size_t bytes) {
  const size_t header_bytes = 2 * static_cast<size_t>(run_count);
  if (run_count < 8 || header_bytes > bytes) return IsValidRunsGeneric(run_count, data, bytes);
  __m512i all = _mm512_setzero_si512();
  __m512i lengths = _mm512_setzero_si512();
  uint64_t bad = 0;
  for (size_t at = 0; at < header_bytes; at += 64) {
    const size_t left = header_bytes - at;
    const __mmask64 wanted = left >= 64 ? ~0ull : _bzhi_u64(~0ull, static_cast<uint32_t>(left));
    const __m512i values = _mm512_maskz_loadu_epi8(wanted, data + at);
    if (_mm512_movepi8_mask(values) != 0) return IsValidRunsGeneric(run_count, data, bytes);
    const __m512i length = _mm512_maskz_mov_epi8(0xaaaaaaaaaaaaaaaau, values);
    all = _mm512_add_epi64(all, _mm512_sad_epu8(values, _mm512_setzero_si512()));
    lengths = _mm512_add_epi64(lengths, _mm512_sad_epu8(length, _mm512_setzero_si512()));
    bad |= _mm512_mask_cmpeq_epi8_mask(wanted & 0xaaaaaaaaaaaaaaaau, values,
                                       _mm512_setzero_si512());
  }
  return bad == 0 && _mm512_reduce_add_epi64(all) <= static_cast<long long>(kPageBytes) &&
         _mm512_reduce_add_epi64(lengths) == static_cast<long long>(bytes - header_bytes);
}

TARGET bool IsValidMask(const uint8_t* data, size_t bytes) {
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

TARGET bool IsValid(uint8_t encoding, uint8_t run_count, const uint8_t* data, size_t bytes) {
  if (encoding == kEncodingRuns) return IsValidRuns(run_count, data, bytes);
  if (run_count != 0) return false;
  if (encoding == kEncodingMask) return IsValidMask(data, bytes);
  return IsValidWhole(encoding, bytes);
}

TARGET void ApplyRuns(uint8_t* target, uint8_t run_count, const uint8_t* data) {
  const uint8_t* from = data + RunHeaderBytes(run_count, data);
  const uint8_t* header = data;
  uint8_t* to = target;
  for (uint32_t run = 0; run < run_count; ++run) {
    to += TakeLeb128(header);
    uint32_t length = TakeLeb128(header);
    for (; length > 64; length -= 64, to += 64, from += 64) {
      _mm512_storeu_si512(to, _mm512_loadu_si512(from));
    }
    // Masked-off bytes are neither read nor written, so neither end of a buffer is passed.
    const __mmask64 wanted = _bzhi_u64(~0ull, length);
    _mm512_mask_storeu_epi8(to, wanted, _mm512_maskz_loadu_epi8(wanted, from));
    to += length;
    from += length;
  }
}

TARGET void ApplyMask(uint8_t* target, const uint8_t* data) {
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

TARGET PageSummary Apply(uint8_t* target, uint8_t encoding, uint8_t run_count, const uint8_t* data,
                         size_t, const uint8_t* next_target) {
  for (size_t offset = 0; offset < kPageBytes; offset += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(next_target + offset), _MM_HINT_T0);
  }
  switch (encoding) {
    case kEncodingZero:
      std::memset(target, 0, kPageBytes);
      return {};
    case kEncodingRaw:
      return EncodeFull(data, target).summary;
    case kEncodingRuns:
      ApplyRuns(target, run_count, data);
      break;
    default:
      ApplyMask(target, data);
  }
  return Summarize(target);
}

}  // namespace

const PageKernel kPageKernelAvx512 = {
    .name = "avx512",
    .encode_delta = EncodeDelta,
    .encode_full = EncodeFull,
    .summarize = Summarize,
    .is_valid = IsValid,
    .apply = Apply,
    .crc32c = Crc32cAvx512,
};

}  // namespace romulus
