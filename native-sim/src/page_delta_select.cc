// Which forms of the page functions this processor can run, and the bench's yardstick.
#include <cstring>

#include "page_delta.h"

namespace romulus {
namespace {

struct Available {
  const PageKernel* kernels[3];
  size_t count = 0;
};

Available Detect() {
  Available available;
  available.kernels[available.count++] = &kPageKernelScalar;
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
                        __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt") &&
                        __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("lzcnt") &&
                        __builtin_cpu_supports("pclmul");
  if (!has_avx2) return available;
  available.kernels[available.count++] = &kPageKernelAvx2;
  const bool has_avx512 =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
      __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("vpclmulqdq") &&
      __builtin_cpu_supports("pclmul");
  if (has_avx512) available.kernels[available.count++] = &kPageKernelAvx512;
  return available;
}

const Available& Kernels() {
  static const Available available = Detect();
  return available;
}

}  // namespace

const PageKernel* const* AvailablePageKernels(size_t* count) {
  *count = Kernels().count;
  return Kernels().kernels;
}

const PageKernel& BestPageKernel() { return *Kernels().kernels[Kernels().count - 1]; }

const PageKernel* FindPageKernel(const char* name) {
  for (size_t at = 0; at < Kernels().count; ++at) {
    if (std::strcmp(Kernels().kernels[at]->name, name) == 0) return Kernels().kernels[at];
  }
  return nullptr;
}

size_t ClassicRunsBytes(const uint8_t* now, const uint8_t* old, uint8_t* out) {
  constexpr size_t kGapMerged = 3;
  const auto put = [](uint8_t* to, size_t value) {
    for (; value >= 128; value >>= 7) *to++ = static_cast<uint8_t>(value | 128);
    *to++ = static_cast<uint8_t>(value);
    return to;
  };
  uint8_t* to = out;
  size_t at = 0;
  size_t written_to = 0;
  while (at < kPageBytes) {
    while (at + 8 <= kPageBytes && std::memcmp(now + at, old + at, 8) == 0) at += 8;
    while (at < kPageBytes && now[at] == old[at]) ++at;
    if (at == kPageBytes) break;
    const size_t start = at;
    size_t end = at;
    while (at < kPageBytes && at - end <= kGapMerged) {
      if (now[at] != old[at]) end = at + 1;
      ++at;
    }
    at = end;
    if (static_cast<size_t>(to - out) + 4 + (end - start) >= kPageBytes) return kPageBytes;
    to = put(to, start - written_to);
    to = put(to, end - start);
    std::memcpy(to, now + start, end - start);
    to += end - start;
    written_to = end;
  }
  return static_cast<size_t>(to - out);
}

}  // namespace romulus
