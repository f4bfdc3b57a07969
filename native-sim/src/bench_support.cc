// What tests and benches need beside the product: anonymous memory to track, quick writers of many
// pages, and the floor against which captures are measured. Nothing of the product uses it.
#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "areas.h"
#include "border.h"
#include "copy.h"
#include "memory.h"
#include "pagemap_abi.h"
#include "priority.h"
#include "staged_pages.h"
#include "tracker_handle.h"

namespace romulus {

namespace {

uint64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// Zeroed anonymous memory, unmapped when the handle is collected.
struct Anonymous {
  uint8_t* data;
  size_t bytes;
  ~Anonymous() { munmap(data, bytes); }
};

Napi::Value AnonymousCreate(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const auto bytes = static_cast<size_t>(WholeNumber(info[0], "bytes"));
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) {
      throw Failure::System("ERR_LIMIT_MEMORY", "cannot map anonymous memory", "Free memory.");
    }
    auto result = Napi::Object::New(info.Env());
    result.Set("handle", Napi::External<Anonymous>::New(
                             info.Env(), new Anonymous{static_cast<uint8_t*>(data), bytes},
                             [](Napi::Env, Anonymous* held) { delete held; }));
    result.Set("address", Napi::BigInt::New(info.Env(), reinterpret_cast<uint64_t>(data)));
    return result;
  });
}

// (address, pages: Uint32Array, value): writes the value into 8 bytes of each page of this process.
Napi::Value PokePages(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    bool lossless = false;
    auto* base = reinterpret_cast<uint8_t*>(info[0].As<Napi::BigInt>().Uint64Value(&lossless));
    const auto pages = info[1].As<Napi::Uint32Array>();
    const uint64_t value = WholeNumber(info[2], "value");
    for (size_t i = 0; i < pages.ElementLength(); ++i) {
      auto* word = base + uint64_t{pages[i]} * kPageBytes + (i * 8) % kPageBytes;
      *reinterpret_cast<volatile uint64_t*>(word) = value;
    }
    return info.Env().Undefined();
  });
}

// (page: Uint8Array) -> one copy of it by each vector form that this CPU has, scalar first.
Napi::Value CopyByEachForm(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const auto page = info[0].As<Napi::Uint8Array>();
    if (page.ByteLength() != kPageBytes) {
      throw Failure("ERR_USAGE_BYTES", "this is not one page", "Pass 4096 bytes.");
    }
    alignas(64) uint8_t source[kPageBytes];
    alignas(64) uint8_t target[kPageBytes];
    std::copy(page.Data(), page.Data() + kPageBytes, source);
    auto copies = Napi::Array::New(info.Env());
    for (const Simd simd : {Simd::kScalar, Simd::kAvx2, Simd::kAvx512}) {
      if (simd > BestSimd()) break;
      std::fill(target, target + kPageBytes, 0xa5);
      CopyPageAs(simd, target, source);
      CopyFence();
      copies.Set(copies.Length(), Napi::Buffer<uint8_t>::Copy(info.Env(), target, kPageBytes));
    }
    return copies;
  });
}

// (tracker, memory, pagesMax) -> {scanNs, copyNs, pages}: one bare PAGEMAP_SCAN of the whole range by
// one thread, then a non-temporal copy of the pages found by two threads into memory that is already
// there. No bookkeeping, no bounds, no holes: the least that the hardware and the kernel allow.
struct FloorState {
  std::vector<PageRegion> regions;
  std::vector<uint64_t> offsets;
  uint8_t* target = nullptr;
  size_t target_bytes = 0;
  ~FloorState() {
    if (target != nullptr) munmap(target, target_bytes);
  }
};

Napi::Value CaptureFloor(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const auto tracker = UnwrapTracker(info[0]);
    const auto memory = UnwrapMemory(info[1]);
    const TrackedRange range = tracker->ranges().at(0);
    const auto pages_max = static_cast<size_t>(WholeNumber(info[2], "pagesMax"));
    static thread_local FloorState kept;
    FloorState& state = kept;  // the second thread must see this thread's
    state.regions.resize(pages_max);
    if (state.target_bytes < pages_max * kPageBytes) {
      if (state.target != nullptr) munmap(state.target, state.target_bytes);
      state.target_bytes = pages_max * kPageBytes;
      state.target = static_cast<uint8_t*>(mmap(nullptr, state.target_bytes, PROT_READ | PROT_WRITE,
                                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
      madvise(state.target, state.target_bytes, MADV_HUGEPAGE);
      std::fill(state.target, state.target + state.target_bytes, 1);
    }
    const int pagemap = open(("/proc/" + std::to_string(tracker->pid()) + "/pagemap").c_str(),
                             O_RDONLY | O_CLOEXEC);
    const Fd pagemap_owner(pagemap);
    PageScanArgument argument{};
    argument.size = sizeof(argument);
    argument.flags = kScanWpMatching | kScanCheckWpAsync;
    argument.start = range.address;
    argument.end = range.address + range.bytes;
    argument.vec = reinterpret_cast<uint64_t>(state.regions.data());
    argument.vec_len = pages_max;
    argument.category_mask = kPageIsWritten;
    argument.return_mask = kPageIsWritten;

    std::atomic<int> phase{0};
    std::atomic<int> done{0};
    std::vector<uint64_t>& offsets = state.offsets;
    offsets.reserve(pages_max);
    const auto copy_part = [&](size_t from, size_t to) {
      for (size_t i = from; i < to; ++i) {
        CopyPage(state.target + i * kPageBytes, memory->data() + offsets[i]);
      }
      CopyFence();
    };
    // The second thread already spins when the clock starts: its start is not part of the floor.
    // As undisturbed as a capture is.
    const Urgent urgent;
    std::thread second([&] {
      const Urgent second_urgent;
      phase.fetch_add(1);
      while (phase.load(std::memory_order_acquire) != 2) {
      }
      copy_part(offsets.size() / 2, offsets.size());
      done.store(1, std::memory_order_release);
    });
    while (phase.load() != 1) {
    }
    const uint64_t begin = NowNs();
    const int found = ioctl(pagemap, kPagemapScan, &argument);
    const uint64_t scanned = NowNs();
    offsets.clear();
    for (int i = 0; i < found; ++i) {
      for (uint64_t page = state.regions[i].start; page < state.regions[i].end; page += kPageBytes) {
        offsets.push_back(page - range.address);
      }
    }
    phase.store(2, std::memory_order_release);
    copy_part(0, offsets.size() / 2);
    while (done.load(std::memory_order_acquire) == 0) {
    }
    const uint64_t copied = NowNs();
    second.join();
    auto result = Napi::Object::New(info.Env());
    result.Set("pages", Napi::Number::New(info.Env(), static_cast<double>(offsets.size())));
    result.Set("scanNs", Napi::Number::New(info.Env(), static_cast<double>(scanned - begin)));
    result.Set("copyNs", Napi::Number::New(info.Env(), static_cast<double>(copied - scanned)));
    return result;
  });
}

}  // namespace

void InitBenchSupport(Napi::Env env, Napi::Object exports) {
  exports.Set("benchAnonymousCreate", Napi::Function::New(env, AnonymousCreate));
  exports.Set("benchPokePages", Napi::Function::New(env, PokePages));
  exports.Set("benchCopyByEachForm", Napi::Function::New(env, CopyByEachForm));
  exports.Set("benchCaptureFloor", Napi::Function::New(env, CaptureFloor));
}

}  // namespace romulus
