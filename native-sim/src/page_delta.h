// Pages against their previous versions: the encodings of docs/ARCHITECTURE.md "Page batches", one
// page at a time, in three forms with byte-identical output: scalar, AVX2 and AVX-512.
//
// A page is compared once, into 64 masks of 64 bits (a bit set where a byte changed). From the
// masks alone follow the exact size of a `mask` encoding and, up to a few bytes, that of `runs`,
// and with them the choice (ChooseEncoding), so that every form chooses alike. The bytes are packed
// afterwards, from the first-level cache. The CRC32C that the page's digest needs is taken in the
// same pass.
//
// Nothing here allocates, throws or keeps state: all functions are safe from any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "page_digest.h"
#include "staged_pages.h"

namespace romulus {

enum Encoding : uint8_t {
  kEncodingZero = 0,
  kEncodingRaw = 1,
  kEncodingRuns = 2,
  kEncodingMask = 3,
  kEncodingCount = 4,
  // Never on the wire: the page equals its previous version.
  kEncodingUnchanged = 0xff,
};

constexpr size_t kLineBytes = 64;
constexpr size_t kLinesPerPage = kPageBytes / kLineBytes;
// An encoded page larger than this travels raw: nothing is gained by it any more.
constexpr uint32_t kDeltaBytesMax = kPageBytes - kPageBytes / 16;
// The run count travels in one byte.
constexpr uint32_t kRunsMax = 255;
// Unchanged stretches up to this long inside a run are carried along: a new run costs two bytes.
constexpr uint32_t kGapBytesMerged = 2;
// An encoder may write (not count) up to this many bytes at `out`.
constexpr size_t kEncodeRoomBytes = kPageBytes + 2 * kLineBytes;

struct EncodedPage {
  uint8_t encoding = kEncodingUnchanged;
  uint8_t run_count = 0;
  uint16_t bytes = 0;
  PageSummary summary;
};

// Sizes that follow from the masks.
struct PageMeasure {
  uint32_t changed_bytes = 0;
  uint32_t changed_lines = 0;
  uint32_t runs = 0;             // after merging short gaps
  uint32_t run_bytes = 0;        // new bytes in these runs
  uint32_t unchanged_spans = 0;  // of whole lines: each may make a skip a byte longer
};

constexpr uint32_t MaskBytes(const PageMeasure& measure) {
  return 8 + 8 * measure.changed_lines + measure.changed_bytes;
}

constexpr uint32_t RunsBytesEstimate(const PageMeasure& measure) {
  return measure.run_bytes + 2 * measure.runs + measure.unchanged_spans;
}

// Masks decode faster, whatever the number of runs, so runs must be an eighth smaller to be chosen.
constexpr Encoding ChooseEncoding(const PageMeasure& measure) {
  const uint32_t mask_bytes = MaskBytes(measure);
  const uint32_t runs_bytes = RunsBytesEstimate(measure);
  const bool runs_fit = measure.runs <= kRunsMax && runs_bytes <= kDeltaBytesMax;
  const bool mask_fits = mask_bytes <= kDeltaBytesMax;
  if (mask_fits && (!runs_fit || mask_bytes * 8 <= runs_bytes * 9)) return kEncodingMask;
  return runs_fit ? kEncodingRuns : kEncodingRaw;
}

// What encoding a page fetches into the cache beside its own work. Speed alone: never read.
struct EncodeAhead {
  // The pages that are encoded next.
  const uint8_t* next_now;
  const uint8_t* next_old;
  // How much this one will probably be; the last one's size is a good guess.
  size_t out_bytes;
};

// One form of the page functions. Pages are whole (kPageBytes) and need no alignment.
struct PageKernel {
  const char* name;

  // Encodes `now` against `old` to `out` and brings `baseline` (which holds what `old` holds, and
  // may be `old`) up to date, writing changed lines only.
  EncodedPage (*encode_delta)(const uint8_t* now, const uint8_t* old, uint8_t* baseline,
                              uint8_t* out, const EncodeAhead& ahead);

  // Encodes `now` as zero or raw and, unless it is zeros, copies it to `baseline` (which may be
  // null).
  EncodedPage (*encode_full)(const uint8_t* now, uint8_t* baseline, uint8_t* out);

  // CRC and zero test of a page.
  PageSummary (*summarize)(const uint8_t* page);

  // Whether the encoded page can be applied. Reads inside `data[0, bytes)` only, whatever it holds.
  bool (*is_valid)(uint8_t encoding, uint8_t run_count, const uint8_t* data, size_t bytes);

  // Applies an encoded page that is_valid accepted, and sums the result up. Writes inside `target`
  // only.
  PageSummary (*apply)(uint8_t* target, uint8_t encoding, uint8_t run_count, const uint8_t* data,
                       size_t bytes, const uint8_t* next_target);

  uint32_t (*crc32c)(uint32_t crc, const uint8_t* data, size_t bytes);
};

extern const PageKernel kPageKernelScalar;
extern const PageKernel kPageKernelAvx2;
extern const PageKernel kPageKernelAvx512;

// Forms that this processor can run, slowest first. `count` receives how many.
const PageKernel* const* AvailablePageKernels(size_t* count);
// The fastest of them.
const PageKernel& BestPageKernel();
// By name, or null when there is no such form here.
const PageKernel* FindPageKernel(const char* name);

// Size of the classic encoding (LEB128 skip, LEB128 length, bytes; gaps under 4 bytes merged), as
// QEMU's XBZRLE and Remus use it; kPageBytes when it would not be smaller. A yardstick for the
// bench only.
size_t ClassicRunsBytes(const uint8_t* now, const uint8_t* old, uint8_t* out);

}  // namespace romulus
