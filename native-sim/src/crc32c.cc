#include "crc32c.h"

#include <array>
#include <cstring>

#include "crc32c_fold.h"
#include "staged_pages.h"

namespace romulus {
namespace {

using crc32c_detail::kPolynomial;
using crc32c_detail::kStreamBytes;
using crc32c_detail::Multiply;
using crc32c_detail::PowerOfX;

using ByteTables = std::array<std::array<uint32_t, 256>, 8>;

constexpr ByteTables MakeByteTables() {
  ByteTables tables{};
  for (uint32_t value = 0; value < 256; ++value) {
    uint32_t crc = value;
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) ? (crc >> 1) ^ kPolynomial : crc >> 1;
    tables[0][value] = crc;
  }
  for (size_t table = 1; table < 8; ++table) {
    for (size_t value = 0; value < 256; ++value) {
      const uint32_t before = tables[table - 1][value];
      tables[table][value] = (before >> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}

// Multiplication by x^(8 * bytes): what appending that many zero bytes does to a raw CRC. Linear,
// hence four tables of 256.
using ShiftTables = std::array<std::array<uint32_t, 256>, 4>;

constexpr ShiftTables MakeShiftTables(uint64_t bytes) {
  ShiftTables tables{};
  const uint32_t power = PowerOfX(bytes * 8);
  for (size_t table = 0; table < 4; ++table) {
    for (uint32_t bit = 0; bit < 8; ++bit) {
      tables[table][1u << bit] = Multiply(1u << (table * 8 + bit), power);
    }
    for (uint32_t value = 1; value < 256; ++value) {
      const uint32_t rest = value & (value - 1);
      if (rest != 0) tables[table][value] = tables[table][rest] ^ tables[table][value ^ rest];
    }
  }
  return tables;
}

inline uint32_t Shift(const ShiftTables& tables, uint32_t crc) {
  return tables[0][crc & 0xff] ^ tables[1][(crc >> 8) & 0xff] ^ tables[2][(crc >> 16) & 0xff] ^
         tables[3][crc >> 24];
}

// What appending 2^n zero bytes multiplies a raw CRC by.
constexpr std::array<uint32_t, 64> MakePowers() {
  std::array<uint32_t, 64> powers{};
  powers[0] = PowerOfX(8);
  for (size_t at = 1; at < 64; ++at) powers[at] = Multiply(powers[at - 1], powers[at - 1]);
  return powers;
}

constexpr std::array<uint32_t, 64> kPowers = MakePowers();
constexpr ByteTables kByteTables = MakeByteTables();
constexpr ShiftTables kShiftPage = MakeShiftTables(kPageBytes);
constexpr ShiftTables kShiftStream = MakeShiftTables(kStreamBytes);
constexpr ShiftTables kShiftTwoStreams = MakeShiftTables(2 * kStreamBytes);

inline uint64_t LoadWord(const uint8_t* data) {
  uint64_t word;
  std::memcpy(&word, data, sizeof word);
  return word;
}

__attribute__((target("sse4.2"))) uint32_t TailSse42(uint32_t state, const uint8_t* data,
                                                     size_t bytes) {
  uint64_t wide = state;
  for (; bytes >= 8; bytes -= 8, data += 8) wide = _mm_crc32_u64(wide, LoadWord(data));
  state = static_cast<uint32_t>(wide);
  for (; bytes > 0; --bytes, ++data) state = _mm_crc32_u8(state, *data);
  return state;
}

}  // namespace

uint32_t Crc32cSoftware(uint32_t crc, const uint8_t* data, size_t bytes) {
  uint32_t state = ~crc;
  for (; bytes >= 8; bytes -= 8, data += 8) {
    const uint64_t word = LoadWord(data) ^ state;
    state = 0;
    for (size_t byte = 0; byte < 8; ++byte) {
      state ^= kByteTables[7 - byte][(word >> (8 * byte)) & 0xff];
    }
  }
  for (; bytes > 0; --bytes, ++data) {
    state = (state >> 8) ^ kByteTables[0][(state ^ *data) & 0xff];
  }
  return ~state;
}

__attribute__((target("sse4.2"))) uint32_t Crc32cSse42(uint32_t crc, const uint8_t* data,
                                                       size_t bytes) {
  uint32_t state = ~crc;
  for (; bytes >= 3 * kStreamBytes; bytes -= 3 * kStreamBytes, data += 3 * kStreamBytes) {
    // The instruction takes three cycles and one may start in each: three streams fill it.
    uint64_t first = state;
    uint64_t second = 0;
    uint64_t third = 0;
    for (size_t offset = 0; offset < kStreamBytes; offset += 8) {
      first = _mm_crc32_u64(first, LoadWord(data + offset));
      second = _mm_crc32_u64(second, LoadWord(data + kStreamBytes + offset));
      third = _mm_crc32_u64(third, LoadWord(data + 2 * kStreamBytes + offset));
    }
    state = Shift(kShiftTwoStreams, static_cast<uint32_t>(first)) ^
            Shift(kShiftStream, static_cast<uint32_t>(second)) ^ static_cast<uint32_t>(third);
  }
  return ~TailSse42(state, data, bytes);
}

__attribute__((target("avx512f,avx512bw,avx512vl,vpclmulqdq,pclmul,sse4.2"))) uint32_t
Crc32cAvx512(uint32_t crc, const uint8_t* data, size_t bytes) {
  using namespace crc32c_detail;
  uint32_t state = ~crc;
  if (bytes >= 512) {
    const __m512i by_256_bytes = FoldBy<256 * 8>();
    __m512i a = _mm512_loadu_si512(data);
    __m512i b = _mm512_loadu_si512(data + 64);
    __m512i c = _mm512_loadu_si512(data + 128);
    __m512i d = _mm512_loadu_si512(data + 192);
    a = _mm512_xor_si512(a, FoldSeed(state));
    data += 256;
    bytes -= 256;
    for (; bytes >= 256; bytes -= 256, data += 256) {
      a = Fold(a, by_256_bytes, _mm512_loadu_si512(data));
      b = Fold(b, by_256_bytes, _mm512_loadu_si512(data + 64));
      c = Fold(c, by_256_bytes, _mm512_loadu_si512(data + 128));
      d = Fold(d, by_256_bytes, _mm512_loadu_si512(data + 192));
    }
    state = FoldFinish(a, b, c, d);
  }
  return ~TailSse42(state, data, bytes);
}

uint32_t Crc32cAppendPage(uint32_t crc_a, uint32_t crc_page) {
  return Shift(kShiftPage, crc_a) ^ crc_page;
}

uint32_t Crc32cCombine(uint32_t crc_a, uint32_t crc_b, uint64_t bytes_b) {
  for (uint64_t rest = bytes_b; rest != 0; rest &= rest - 1) {
    crc_a = Multiply(crc_a, kPowers[static_cast<size_t>(__builtin_ctzll(rest))]);
  }
  return crc_a ^ crc_b;
}

}  // namespace romulus
