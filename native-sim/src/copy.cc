#include "copy.h"

#include <cstring>

#include "staged_pages.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace romulus {

namespace {

#if defined(__x86_64__)

__attribute__((target("avx512f"))) void CopyPageAvx512(uint8_t* target, const uint8_t* source) {
  for (size_t i = 0; i < kPageBytes; i += 256) {
    const __m512i a = _mm512_load_si512(source + i);
    const __m512i b = _mm512_load_si512(source + i + 64);
    const __m512i c = _mm512_load_si512(source + i + 128);
    const __m512i d = _mm512_load_si512(source + i + 192);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(target + i), a);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(target + i + 64), b);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(target + i + 128), c);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(target + i + 192), d);
  }
}

__attribute__((target("avx2"))) void CopyPageAvx2(uint8_t* target, const uint8_t* source) {
  for (size_t i = 0; i < kPageBytes; i += 128) {
    const auto* from = reinterpret_cast<const __m256i*>(source + i);
    auto* to = reinterpret_cast<__m256i*>(target + i);
    const __m256i a = _mm256_load_si256(from);
    const __m256i b = _mm256_load_si256(from + 1);
    const __m256i c = _mm256_load_si256(from + 2);
    const __m256i d = _mm256_load_si256(from + 3);
    _mm256_stream_si256(to, a);
    _mm256_stream_si256(to + 1, b);
    _mm256_stream_si256(to + 2, c);
    _mm256_stream_si256(to + 3, d);
  }
}

#endif

void CopyPagePlain(uint8_t* target, const uint8_t* source) {
  std::memcpy(target, source, kPageBytes);
}

using CopyFunction = void (*)(uint8_t*, const uint8_t*);

CopyFunction CopyFor(Simd simd) {
#if defined(__x86_64__)
  switch (simd) {
    case Simd::kAvx512:
      return CopyPageAvx512;
    case Simd::kAvx2:
      return CopyPageAvx2;
    case Simd::kScalar:
      return CopyPagePlain;
  }
#endif
  return CopyPagePlain;
}

const CopyFunction kCopy = CopyFor(BestSimd());

}  // namespace

Simd BestSimd() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) return Simd::kAvx512;
  if (__builtin_cpu_supports("avx2")) return Simd::kAvx2;
#endif
  return Simd::kScalar;
}

const char* SimdName(Simd simd) {
  switch (simd) {
    case Simd::kAvx512:
      return "avx512";
    case Simd::kAvx2:
      return "avx2";
    case Simd::kScalar:
      return "scalar";
  }
  return "scalar";
}

void CopyPage(uint8_t* target, const uint8_t* source) { kCopy(target, source); }

void CopyPageAs(Simd simd, uint8_t* target, const uint8_t* source) {
  CopyFor(simd)(target, source);
}

void CopyFence() {
#if defined(__x86_64__)
  _mm_sfence();
#else
  __atomic_thread_fence(__ATOMIC_RELEASE);
#endif
}

}  // namespace romulus
