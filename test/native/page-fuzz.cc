// Fuzzes the page functions under AddressSanitizer and UndefinedBehaviorSanitizer, built and run by
// page-fuzz.test.ts.
//
// Every round makes pages, encodes them with each form, damages the batch and has each form check
// and apply it. Inputs end at an unmapped page, since the sanitizer does not see masked vector
// loads. All forms must give the same bytes, the same verdict and the same outcome. Usage:
// page-fuzz SEED ROUNDS
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "failure.h"
#include "page_delta_batch.h"

namespace {

using namespace romulus;

constexpr size_t kPages = 8;

struct Random {
  uint64_t state;
  uint64_t Next() {
    state += 0x9e3779b97f4a7c15;
    return Mix64(state);
  }
  size_t Below(size_t bound) { return static_cast<size_t>(Next() % bound); }
};

[[noreturn]] void Fail(const char* what, uint64_t seed, uint64_t round) {
  std::fprintf(stderr, "FAILED: %s (seed %llu, round %llu)\n", what,
               static_cast<unsigned long long>(seed), static_cast<unsigned long long>(round));
  std::exit(1);
}

// Memory whose last byte is followed by a page that cannot be touched.
class Guarded {
 public:
  explicit Guarded(size_t bytes_max)
      : size_((bytes_max + kPageBytes - 1) / kPageBytes * kPageBytes) {
    base_ = static_cast<uint8_t*>(mmap(nullptr, size_ + kPageBytes, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + size_, kPageBytes, PROT_NONE) != 0) std::abort();
  }
  uint8_t* EndingWith(size_t bytes) { return base_ + size_ - bytes; }

 private:
  size_t size_;
  uint8_t* base_;
};

void ChangePage(Random& random, uint8_t* page) {
  switch (random.Below(7)) {
    case 0:
      return;
    case 1:
      std::memset(page, 0, kPageBytes);
      return;
    case 2:
      for (size_t at = 0; at < kPageBytes; ++at) page[at] = static_cast<uint8_t>(random.Next());
      return;
    default: {
      const size_t writes = size_t{1} << random.Below(10);
      const size_t length_max = size_t{1} << random.Below(8);
      for (size_t write = 0; write < writes; ++write) {
        const size_t length = 1 + random.Below(length_max);
        const size_t start = random.Below(kPageBytes - length + 1);
        for (size_t at = start; at < start + length; ++at) {
          page[at] = static_cast<uint8_t>(random.Next());
        }
      }
    }
  }
}

std::vector<uint8_t> Encode(const PageKernel& kernel, const std::vector<uint8_t>& now,
                            const std::vector<uint8_t>& old, Guarded& page_memory,
                            Guarded& buffer) {
  BatchEncoder encoder(kernel, 1, kBatchBytesMost);
  uint8_t* start = buffer.EndingWith(encoder.BufferBytes(kPages));
  encoder.Begin(start, kPages);
  std::vector<uint8_t> baseline = old;
  for (size_t page = 0; page < kPages; ++page) {
    uint8_t* guarded = page_memory.EndingWith(kPageBytes);
    std::memcpy(guarded, now.data() + page * kPageBytes, kPageBytes);
    uint8_t* before = baseline.data() + page * kPageBytes;
    const EncodedPage encoded =
        kernel.encode_delta(guarded, before, before, encoder.room(), {guarded, before, 0});
    if (encoded.encoding != kEncodingUnchanged) encoder.Add(static_cast<uint32_t>(page), encoded);
  }
  if (baseline != now) return {};
  if (encoder.pages() == 0) return {0};
  const BatchEncoder::Finished batch = encoder.Finish();
  return {start + batch.offset, start + batch.offset + batch.bytes};
}

void Damage(Random& random, std::vector<uint8_t>& batch) {
  const size_t flips = random.Below(4);
  for (size_t flip = 0; flip < flips && !batch.empty(); ++flip) {
    // Tables and headers are where a flip decides most.
    const size_t bound = random.Below(3) == 0 ? batch.size() : std::min<size_t>(batch.size(), 160);
    batch[random.Below(bound)] = static_cast<uint8_t>(random.Next() >> random.Below(56));
  }
  if (random.Below(4) == 0) batch.resize(random.Below(batch.size() + 1));
  if (random.Below(16) == 0) batch.push_back(static_cast<uint8_t>(random.Next()));
}

// "" when applied, else the code of the refusal.
std::string Apply(const PageKernel& kernel, const std::vector<uint8_t>& batch,
                  Guarded& batch_memory, uint8_t* target) {
  uint8_t* data = batch_memory.EndingWith(batch.size());
  if (!batch.empty()) std::memcpy(data, batch.data(), batch.size());
  try {
    const BatchView view = ParseBatch(kernel, data, batch.size(), kPages);
    ApplyBatch(kernel, view, {target, kPages, -1, false});
    return "";
  } catch (const Failure& failure) {
    return failure.code();
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const uint64_t seed = std::strtoull(argv[1], nullptr, 10);
  const uint64_t rounds = std::strtoull(argv[2], nullptr, 10);
  size_t kernel_count = 0;
  const PageKernel* const* kernels = AvailablePageKernels(&kernel_count);
  Guarded page_memory(kPageBytes);
  Guarded buffer(kBatchBytesMost);
  Guarded batch_memory(kBatchBytesMost);
  Guarded target_memory(kPages * kPageBytes);
  uint8_t* target = target_memory.EndingWith(kPages * kPageBytes);
  uint64_t applied = 0;
  for (uint64_t round = 0; round < rounds; ++round) {
    Random random{seed * 1000003 + round};
    std::vector<uint8_t> old(kPages * kPageBytes);
    for (uint8_t& byte : old) byte = static_cast<uint8_t>(random.Next());
    std::vector<uint8_t> now = old;
    for (size_t page = 0; page < kPages; ++page) ChangePage(random, now.data() + page * kPageBytes);

    std::vector<uint8_t> batch;
    for (size_t at = 0; at < kernel_count; ++at) {
      std::vector<uint8_t> encoded = Encode(*kernels[at], now, old, page_memory, buffer);
      if (encoded.empty()) Fail("the baseline was not brought up to date", seed, round);
      if (at > 0 && encoded != batch) Fail("forms encode differently", seed, round);
      batch = encoded;
    }
    if (batch.size() == 1) continue;
    for (size_t at = 0; at < kernel_count; ++at) {
      std::memcpy(target, old.data(), old.size());
      if (!Apply(*kernels[at], batch, batch_memory, target).empty() ||
          std::memcmp(target, now.data(), now.size()) != 0) {
        Fail("a sound batch was not applied", seed, round);
      }
    }
    Damage(random, batch);
    std::string verdict;
    std::vector<uint8_t> outcome;
    for (size_t at = 0; at < kernel_count; ++at) {
      std::memcpy(target, old.data(), old.size());
      const std::string code = Apply(*kernels[at], batch, batch_memory, target);
      if (code == "ERR_PROTOCOL_PAGE_BATCH" && std::memcmp(target, old.data(), old.size()) != 0) {
        Fail("a refused batch was applied in part", seed, round);
      }
      const std::vector<uint8_t> after(target, target + old.size());
      if (at > 0 && (code != verdict || after != outcome)) {
        Fail("forms judge differently", seed, round);
      }
      verdict = code;
      outcome = after;
    }
    applied += verdict == "ERR_PROTOCOL_PAGE_BATCH" ? 0 : 1;
  }
  std::printf("rounds %llu, forms %zu, damaged but well-formed %llu\n",
              static_cast<unsigned long long>(rounds), kernel_count,
              static_cast<unsigned long long>(applied));
  return 0;
}
