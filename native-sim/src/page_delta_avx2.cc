// The AVX2 form of the page functions (with BMI2 to pack bytes, SSE4.2 for the CRC): Haswell, Zen 3
// and later. (On Zen 1 and 2 PEXT is microcoded: right, but slow.) This half encodes.
//
// A page is compared and its CRC taken in one pass, which keeps both kinds of units busy; then the
// masks of its lines go by four. Where a loop's length would differ from line to line, more is done
// than needed: a branch that is foretold wrongly costs more than the line.
#include "page_delta_avx2.h"

#include <cstring>

namespace romulus {
namespace {

constexpr size_t kGroups = kLinesPerPage / 4;

// For each byte whose bits name some of eight bytes: where those are, in order.
constexpr std::array<uint64_t, 256> MakeGatherIndexes() {
  std::array<uint64_t, 256> table{};
  for (uint64_t bits = 0; bits < 256; ++bits) {
    uint64_t place = 0;
    for (uint64_t bit = 0; bit < 8; ++bit) {
      if ((bits >> bit & 1) != 0) table[bits] |= bit << (8 * place++);
    }
  }
  return table;
}

constexpr std::array<uint64_t, 256> kGatherIndexes = MakeGatherIndexes();

// A mask for each line of a page, and zeros on both sides, so that neighbours always exist.
struct alignas(32) PageMasks {
  uint64_t before[4];
  uint64_t lines[kLinesPerPage];
  uint64_t after[4];
};

KERNEL_TARGET_INLINE uint64_t CompareHalf(const uint8_t* now, const uint8_t* old) {
  const __m256i equal = _mm256_cmpeq_epi8(Load256(now), Load256(old));
  return ~static_cast<uint32_t>(_mm256_movemask_epi8(equal));
}

// Compares and sums up in one pass; `masks` receives the changed bytes of each line.
KERNEL_TARGET_APART PageSummary Scan(const uint8_t* now, const uint8_t* old,
                                     const EncodeAhead& ahead, uint64_t* masks) {
  constexpr size_t kLinesPerStep = 2;
  constexpr size_t kWordsPerStep = 5;
  constexpr size_t kSteps = kLinesPerPage / kLinesPerStep;
  PageCrc crc(now);
  for (size_t step = 0; step < kSteps; ++step) {
    KERNEL_UNROLL(2)
    for (size_t at = 0; at < kLinesPerStep; ++at) {
      const size_t line = kLinesPerStep * step + at;
      const size_t offset = kLineBytes * line;
      masks[line] = CompareHalf(now + offset, old + offset) |
                    CompareHalf(now + offset + 32, old + offset + 32) << 32;
      Fetch(ahead.next_now, line);
      Fetch(ahead.next_old, line);
    }
    KERNEL_UNROLL(5)
    for (size_t at = 0; at < kWordsPerStep; ++at) crc.Add(kWordsPerStep * step + at);
  }
  KERNEL_UNROLL(10)
  for (size_t word = kWordsPerStep * kSteps; word < PageCrc::kWordsPerStream; ++word) crc.Add(word);
  return SummaryOf(now, crc.Finish());
}

// A bit for each of four words that is not zero.
KERNEL_TARGET_INLINE uint64_t NonZeroOfFour(__m256i words) {
  const __m256i zero = _mm256_cmpeq_epi64(words, _mm256_setzero_si256());
  return static_cast<uint64_t>(_mm256_movemask_pd(_mm256_castsi256_pd(zero)) ^ 0xf);
}

KERNEL_TARGET_INLINE uint64_t NonZeroWords(const uint64_t* words) {
  uint64_t found = 0;
  KERNEL_UNROLL(16)
  for (size_t group = 0; group < kGroups; ++group) {
    found |= NonZeroOfFour(Load256(words + 4 * group)) << (4 * group);
  }
  return found;
}

KERNEL_TARGET_APART uint32_t SumOfPopcounts(const uint64_t* words) {
  uint64_t sums[4] = {};
  for (size_t at = 0; at < kLinesPerPage; at += 4) {
    KERNEL_UNROLL(4)
    for (size_t i = 0; i < 4; ++i) {
      sums[i] += static_cast<uint64_t>(__builtin_popcountll(words[at + i]));
    }
  }
  return static_cast<uint32_t>(sums[0] + sums[1] + sums[2] + sums[3]);
}

// Four words of a string of bits: moved up by so many with what precedes them, and down with what
// follows.
KERNEL_TARGET_INLINE __m256i Up(__m256i here, __m256i before, int bits) {
  return _mm256_or_si256(_mm256_slli_epi64(here, bits), _mm256_srli_epi64(before, 64 - bits));
}
KERNEL_TARGET_INLINE __m256i Down(__m256i here, __m256i after, int bits) {
  return _mm256_or_si256(_mm256_srli_epi64(here, bits), _mm256_slli_epi64(after, 64 - bits));
}

// Short gaps filled, and a bit where a run starts or has just ended. Returns which lines have such
// bits.
KERNEL_TARGET_APART uint64_t MergeAndFindEdges(const PageMasks& changed, uint64_t* merged,
                                               uint64_t* edges) {
  static_assert(kGapBytesMerged == 2);
  const uint64_t* words = changed.lines;
  uint64_t lines = 0;
  __m256i lower = _mm256_setzero_si256();
  KERNEL_UNROLL(2)
  for (size_t group = 0; group < kGroups; ++group) {
    const __m256i here = Load256(words + 4 * group);
    const __m256i before = Load256(words + 4 * group - 1);
    const __m256i after = Load256(words + 4 * group + 1);
    const __m256i left1 = Up(here, before, 1);
    const __m256i left2 = Up(here, before, 2);
    const __m256i right1 = Down(here, after, 1);
    const __m256i right2 = Down(here, after, 2);
    const __m256i near = _mm256_and_si256(left1, _mm256_or_si256(right1, right2));
    const __m256i far = _mm256_and_si256(left2, right1);
    const __m256i runs = _mm256_or_si256(here, _mm256_or_si256(near, far));
    Store256(merged + 4 * group, runs);
    // One word up, from a register: what was just stored in other pieces cannot be read at once.
    const __m256i up = _mm256_permute4x64_epi64(runs, _MM_SHUFFLE(2, 1, 0, 3));
    const __m256i preceding = _mm256_blend_epi32(up, lower, 0x03);
    lower = up;
    const __m256i found = _mm256_xor_si256(runs, Up(runs, preceding, 1));
    Store256(edges + 4 * group, found);
    lines |= NonZeroOfFour(found) << (4 * group);
  }
  return lines;
}

// The masked bytes of a line, packed: eight are gathered by a shuffle, for PEXT takes longer.
// Writes up to 8 bytes more.
KERNEL_TARGET_INLINE uint8_t* PackLine(const uint8_t* line, uint64_t mask, uint8_t* to) {
  const __m128i upper_bytes = _mm_set1_epi64x(0x0808080808080808);
  KERNEL_UNROLL(4)
  for (size_t part = 0; part < 4; ++part) {
    const auto low = static_cast<uint8_t>(mask >> (16 * part));
    const auto high = static_cast<uint8_t>(mask >> (16 * part + 8));
    const __m128i data = _mm_loadu_si128(reinterpret_cast<const __m128i*>(line + 16 * part));
    const __m128i first = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(&kGatherIndexes[low]));
    const __m128i second =
        _mm_loadl_epi64(reinterpret_cast<const __m128i*>(&kGatherIndexes[high]));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_shuffle_epi8(data, first));
    to += __builtin_popcount(low);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to),
                     _mm_shuffle_epi8(data, _mm_or_si128(second, upper_bytes)));
    to += __builtin_popcount(high);
  }
  return to;
}

KERNEL_TARGET_APART uint8_t* PackLines(const uint8_t* now, uint8_t* to, const uint64_t* masks,
                                       uint64_t lines) {
  for (uint64_t rest = lines; rest != 0; rest &= rest - 1) {
    const auto line = static_cast<size_t>(__builtin_ctzll(rest));
    to = PackLine(now + kLineBytes * line, masks[line], to);
  }
  return to;
}

KERNEL_TARGET_APART void UpdateBaseline(const uint8_t* now, uint8_t* baseline, uint64_t lines) {
  for (uint64_t rest = lines; rest != 0; rest &= rest - 1) {
    const auto offset = kLineBytes * static_cast<size_t>(__builtin_ctzll(rest));
    CopyLine(now + offset, baseline + offset);
  }
}

KERNEL_TARGET_INLINE size_t EmitMask(const uint8_t* now, uint8_t* out, const uint64_t* masks,
                                     uint64_t lines) {
  std::memcpy(out, &lines, sizeof lines);
  uint8_t* to = out + 8;
  for (uint64_t rest = lines; rest != 0; rest &= rest - 1, to += 8) {
    std::memcpy(to, &masks[__builtin_ctzll(rest)], 8);
  }
  return static_cast<size_t>(PackLines(now, to, masks, lines) - out);
}

constexpr size_t kEdgesMax = 2 * kRunsMax + 1;
constexpr size_t kEdgesTaken = 4;

// Positions of all edges, in order; the page's end closes a run that reaches it. As many as a word
// holds are taken from every line, needed or not. Writes up to four more.
KERNEL_TARGET_APART size_t ListEdges(const uint64_t* edges, uint64_t lines, uint16_t* positions) {
  size_t count = 0;
  for (uint64_t rest = lines; rest != 0; rest &= rest - 1) {
    const auto line = static_cast<size_t>(__builtin_ctzll(rest));
    uint64_t left = edges[line];
    const auto found = static_cast<size_t>(__builtin_popcountll(left));
    uint64_t word = line * (kLineBytes * 0x0001000100010001);
    KERNEL_UNROLL(4)
    for (size_t edge = 0; edge < kEdgesTaken; ++edge) {
      word += _tzcnt_u64(left) << (16 * edge);
      left &= left - 1;
    }
    std::memcpy(positions + count, &word, sizeof word);
    for (size_t at = count + kEdgesTaken; left != 0; left &= left - 1) [[unlikely]] {
      positions[at++] = static_cast<uint16_t>(kLineBytes * line + _tzcnt_u64(left));
    }
    count += found;
  }
  if (count % 2 != 0) positions[count++] = kPageBytes;
  return count;
}

// Distances between neighbours in LEB128 of one or two bytes. Reads one position before the first,
// and up to 15 after the last; writes up to 8 bytes more.
KERNEL_TARGET_APART uint8_t* EmitDistances(const uint16_t* positions, size_t count, uint8_t* to) {
  const __m256i low_bits = _mm256_set1_epi16(127);
  const __m256i low_byte = _mm256_set1_epi16(0xff);
  for (size_t at = 0; at < count; at += 16) {
    const __m256i values = _mm256_sub_epi16(Load256(positions + at), Load256(positions + at - 1));
    const __m256i is_long = _mm256_cmpgt_epi16(values, low_bits);
    const __m256i low = _mm256_and_si256(values, low_bits);
    const __m256i high = _mm256_slli_epi16(_mm256_srli_epi16(values, 7), 8);
    const __m256i flag = _mm256_and_si256(is_long, _mm256_set1_epi16(128));
    alignas(32) uint64_t spread[4];
    alignas(32) uint64_t kept[4];
    Store256(spread, _mm256_or_si256(_mm256_or_si256(low, high), flag));
    Store256(kept, _mm256_or_si256(is_long, low_byte));
    const size_t left = count - at;
    KERNEL_UNROLL(4)
    for (size_t word = 0; word < 4; ++word) {
      const uint64_t wanted = left >= 4 * word + 4 ? 64 : left > 4 * word ? 16 * (left % 4) : 0;
      const uint64_t keep = _bzhi_u64(kept[word], static_cast<uint32_t>(wanted));
      const uint64_t packed = _pext_u64(spread[word], keep);
      std::memcpy(to, &packed, sizeof packed);
      to += __builtin_popcountll(keep) / 8;
    }
  }
  return to;
}

// The bytes of runs, run by run: the quicker way where a line has hardly more than two of them.
// Writes up to 31 bytes more.
KERNEL_TARGET_APART uint8_t* PackRuns(const uint8_t* now, uint8_t* to, const uint16_t* edges,
                                      size_t edge_count) {
  for (size_t at = 0; at < edge_count; at += 2) {
    const size_t start = edges[at];
    const size_t length = edges[at + 1] - start;
    if (start + length > kPageBytes - 32) [[unlikely]] {
      std::memcpy(to, now + start, length);
    } else {
      const auto* from = reinterpret_cast<const __m128i*>(now + start);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_loadu_si128(from));
      for (size_t done = 16; done < length; done += 32) {
        Store256(to + done, Load256(now + start + done));
      }
    }
    to += length;
  }
  return to;
}

KERNEL_TARGET_INLINE size_t EmitRuns(const uint8_t* now, uint8_t* out, const uint64_t* merged,
                                     const uint64_t* edges, uint64_t edge_lines, uint64_t lines) {
  // One zero in front, so that every skip and length is the difference of two neighbours.
  uint16_t room[16 + kEdgesMax + kEdgesTaken + 16];
  uint16_t* const positions = room + 16;
  positions[-1] = 0;
  const size_t edge_count = ListEdges(edges, edge_lines, positions);
  uint8_t* to = EmitDistances(positions, edge_count, out);
  const auto changed_lines = static_cast<size_t>(__builtin_popcountll(lines));
  to = edge_count <= 4 * changed_lines ? PackRuns(now, to, positions, edge_count)
                                       : PackLines(now, to, merged, lines);
  return static_cast<size_t>(to - out);
}

KERNEL_TARGET_INLINE void CopyPage(const uint8_t* from, uint8_t* to) {
  for (size_t line = 0; line < kLinesPerPage; ++line) {
    CopyLine(from + kLineBytes * line, to + kLineBytes * line);
  }
}

KERNEL_TARGET EncodedPage EncodeDelta(const uint8_t* now, const uint8_t* old, uint8_t* baseline,
                                      uint8_t* out, const EncodeAhead& ahead) {
  EncodedPage result;
  PageMasks changed;
  Store256(changed.before, _mm256_setzero_si256());
  Store256(changed.after, _mm256_setzero_si256());
  result.summary = Scan(now, old, ahead, changed.lines);
  const uint64_t lines = NonZeroWords(changed.lines);
  if (lines == 0) return result;
  if (result.summary.is_zero) {
    result.encoding = kEncodingZero;
    UpdateBaseline(now, baseline, lines);
    return result;
  }
  PageMeasure measure;
  measure.changed_bytes = SumOfPopcounts(changed.lines);
  if (measure.changed_bytes > kDeltaBytesMax) {
    // No encoding is smaller than its changed bytes: what ChooseEncoding would find, sooner.
    CopyPage(now, out);
    CopyPage(now, baseline);
    result.encoding = kEncodingRaw;
    result.bytes = kPageBytes;
    return result;
  }
  alignas(32) uint64_t merged[kLinesPerPage];
  alignas(32) uint64_t edges[kLinesPerPage];
  const uint64_t edge_lines = MergeAndFindEdges(changed, merged, edges);
  measure.changed_lines = static_cast<uint32_t>(__builtin_popcountll(lines));
  measure.run_bytes = SumOfPopcounts(merged);
  // Every run has two edges, but for one that ends with the page.
  measure.runs = (SumOfPopcounts(edges) + 1) / 2;
  measure.unchanged_spans = SpansOfZeros(lines);
  result.encoding = ChooseEncoding(measure);
  switch (result.encoding) {
    case kEncodingMask:
      result.bytes = static_cast<uint16_t>(EmitMask(now, out, changed.lines, lines));
      break;
    case kEncodingRuns:
      result.run_count = static_cast<uint8_t>(measure.runs);
      result.bytes =
          static_cast<uint16_t>(EmitRuns(now, out, merged, edges, edge_lines, lines));
      break;
    default:
      CopyPage(now, out);
      result.bytes = kPageBytes;
  }
  UpdateBaseline(now, baseline, lines);
  return result;
}

KERNEL_TARGET PageSummary Summarize(const uint8_t* page) {
  return SummarizeAndFetch(page, page);
}

KERNEL_TARGET EncodedPage EncodeFull(const uint8_t* now, uint8_t* baseline, uint8_t* out) {
  EncodedPage result;
  result.summary = Summarize(now);
  result.encoding = result.summary.is_zero ? kEncodingZero : kEncodingRaw;
  result.bytes = result.summary.is_zero ? 0 : kPageBytes;
  if (result.summary.is_zero) return result;
  CopyPage(now, out);
  if (baseline != nullptr) CopyPage(now, baseline);
  return result;
}

KERNEL_TARGET bool IsValid(uint8_t encoding, uint8_t run_count, const uint8_t* data, size_t bytes) {
  return IsValidGeneric(encoding, run_count, data, bytes);
}

}  // namespace

const PageKernel kPageKernelAvx2 = {
    .name = "avx2",
    .encode_delta = EncodeDelta,
    .encode_full = EncodeFull,
    .summarize = Summarize,
    .is_valid = IsValid,
    .apply = ApplyAvx2,
    .crc32c = Crc32cSse42,
};

}  // namespace romulus
