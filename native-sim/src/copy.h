// Copies pages into memory that will be read later, by someone else: with stores that bypass the
// caches, so that the machine's own data stay in them. Chosen at run time by what the CPU has;
// without AVX2 (or on another architecture) it is a plain memcpy.
#pragma once

#include <cstdint>

namespace romulus {

enum class Simd { kScalar, kAvx2, kAvx512 };

// The widest form that this CPU and its kernel support.
Simd BestSimd();
const char* SimdName(Simd simd);

// Both aligned to 64 bytes; exactly one page; no overlap.
void CopyPage(uint8_t* target, const uint8_t* source);

// The same in a form of one's choice, which must be supported: not wider than BestSimd().
void CopyPageAs(Simd simd, uint8_t* target, const uint8_t* source);

// Makes the pages copied by this thread visible to others, in order. Call it once after many.
void CopyFence();

}  // namespace romulus
