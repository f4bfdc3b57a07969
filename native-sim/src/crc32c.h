// CRC32C (Castagnoli, reflected polynomial 0x82f63b78), the checksum of frames and pages.
//
// Three implementations with one result: tables (any CPU), the SSE4.2 instruction on three
// interleaved streams, and VPCLMULQDQ folding of 256 bytes at a time (Gopal et al., "Fast CRC
// Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009). The caller picks
// the level; nothing here dispatches by itself, so that a test can compare all of them.
//
// Values are finished CRCs (initial and final inversion included): to go on with a stream, hand
// in the value returned so far; start with 0. Pure functions, safe from any thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace romulus {

uint32_t Crc32cSoftware(uint32_t crc, const uint8_t* data, size_t bytes);
uint32_t Crc32cSse42(uint32_t crc, const uint8_t* data, size_t bytes);
uint32_t Crc32cAvx512(uint32_t crc, const uint8_t* data, size_t bytes);

// CRC of A followed by a page B, from the CRCs of both.
uint32_t Crc32cAppendPage(uint32_t crc_a, uint32_t crc_page);
// CRC of A followed by B, from the CRCs of both and the length of B.
uint32_t Crc32cCombine(uint32_t crc_a, uint32_t crc_b, uint64_t bytes_b);

namespace crc32c_detail {

// A third of a page, so that a page is three streams and two words.
constexpr size_t kStreamBytes = 1360;

constexpr uint32_t kPolynomial = 0x82f63b78;

// Product modulo the polynomial; bit 31 is x^0, as everywhere in a reflected CRC.
constexpr uint32_t Multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
    if (a & bit) product ^= b;
    b = (b & 1) ? (b >> 1) ^ kPolynomial : b >> 1;
  }
  return product;
}

// x^exponent modulo the polynomial.
constexpr uint32_t PowerOfX(uint64_t exponent) {
  uint32_t result = 1u << 31;
  uint32_t square = 1u << 30;
  for (; exponent != 0; exponent >>= 1) {
    if (exponent & 1) result = Multiply(result, square);
    square = Multiply(square, square);
  }
  return result;
}

// The 33-bit form of x^exponent that PCLMULQDQ folding needs.
constexpr uint64_t FoldConstant(uint64_t exponent) {
  return static_cast<uint64_t>(PowerOfX(exponent)) << 1;
}

// Of a page of zeros.
constexpr uint32_t kZeroPageCrc = ~Multiply(0xffffffff, PowerOfX(8 * 4096));

}  // namespace crc32c_detail
}  // namespace romulus
