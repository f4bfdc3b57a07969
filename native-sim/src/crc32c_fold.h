// The folding steps of the VPCLMULQDQ form of CRC32C, for kernels that fold while they do
// something else with the same loads. Include only from code compiled for that target.
//
// Four registers hold 256 bytes of remainder. Multiplying by x^n modulo the polynomial moves a
// remainder n bits further down the message; the constants are powers of x, computed by the
// compiler. The last 16 bytes go through the CRC32 instruction, which is the reduction.
#pragma once

#include "crc32c.h"
#include "page_delta_simd.h"

#define ROMULUS_TARGET_FOLD                                                                    \
  __attribute__((target("avx512f,avx512bw,avx512vl,vpclmulqdq,pclmul,sse4.2"), always_inline)) \
  inline

namespace romulus::crc32c_detail {

ROMULUS_TARGET_FOLD __m512i FoldConstants(uint64_t low, uint64_t high) {
  return _mm512_broadcast_i32x4(
      _mm_set_epi64x(static_cast<long long>(high), static_cast<long long>(low)));
}

// Constants that move a remainder down by `kBits` bits.
template <uint64_t kBits>
ROMULUS_TARGET_FOLD __m512i FoldBy() {
  constexpr uint64_t low = FoldConstant(kBits + 32);
  constexpr uint64_t high = FoldConstant(kBits - 32);
  return FoldConstants(low, high);
}

ROMULUS_TARGET_FOLD __m512i Fold(__m512i state, __m512i constants, __m512i next) {
  const __m512i low = _mm512_clmulepi64_epi128(state, constants, 0x00);
  const __m512i high = _mm512_clmulepi64_epi128(state, constants, 0x11);
  return _mm512_ternarylogic_epi64(low, high, next, 0x96);
}

// What must be added to the first 64 bytes of a message so that `state` precedes it.
ROMULUS_TARGET_FOLD __m512i FoldSeed(uint32_t state) {
  return _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(state)));
}

// Reduces 256 bytes of remainder to the CRC's 32 bits of state (not inverted).
ROMULUS_TARGET_FOLD uint32_t FoldFinish(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab = Fold(a, FoldBy<512>(), b);
  const __m512i cd = Fold(c, FoldBy<512>(), d);
  const __m512i all = Fold(ab, FoldBy<1024>(), cd);
  // Lanes 0..2 are 384, 256 and 128 bits above lane 3, which stays as it is.
  constexpr uint64_t k384_low = FoldConstant(384 + 32), k384_high = FoldConstant(384 - 32);
  constexpr uint64_t k256_low = FoldConstant(256 + 32), k256_high = FoldConstant(256 - 32);
  constexpr uint64_t k128_low = FoldConstant(128 + 32), k128_high = FoldConstant(128 - 32);
  const __m512i lanes = _mm512_set_epi64(0, 0, k128_high, k128_low, k256_high, k256_low, k384_high,
                                         k384_low);
  const __m512i last = _mm512_maskz_mov_epi64(0xc0, all);
  const __m512i folded = Fold(all, lanes, last);
  const __m256i half =
      _mm256_xor_si256(_mm512_castsi512_si256(folded), _mm512_extracti64x4_epi64(folded, 1));
  const __m128i quarter =
      _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  uint64_t state = _mm_crc32_u64(0, static_cast<uint64_t>(_mm_cvtsi128_si64(quarter)));
  state = _mm_crc32_u64(state, static_cast<uint64_t>(_mm_extract_epi64(quarter, 1)));
  return static_cast<uint32_t>(state);
}

}  // namespace romulus::crc32c_detail
