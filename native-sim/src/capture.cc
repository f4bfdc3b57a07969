// The JavaScript face of Capture. Everything here is synchronous and belongs to the thread that made
// the capture: it is meant for a worker thread that has nothing else to do during a pause.
#include <memory>

#include "areas.h"
#include "border.h"
#include "capture_core.h"
#include "memory.h"
#include "staged_pages_tag.h"
#include "tracker_handle.h"

namespace romulus {

namespace {

constexpr napi_type_tag kCaptureTag = {0x524f4d554c555343ULL, 0x4150545552453031ULL};

// `staged` outlives a closed capture, so that an encoder holding it finds nothing instead of
// memory that is gone.
struct Holder {
  std::unique_ptr<Capture> capture;
  std::shared_ptr<StagedPages> staged = std::make_shared<StagedPages>();

  void Forget() { *staged = StagedPages{}; }
};

Holder& Held(const Napi::Value& value) {
  if (!value.IsExternal() || !value.As<Napi::External<Holder>>().CheckTypeTag(&kCaptureTag)) {
    throw Failure("ERR_USAGE_CAPTURE", "this is not the handle of a Capture",
                  "Pass the `handle` of a Capture.");
  }
  return *value.As<Napi::External<Holder>>().Data();
}

Capture& Open(const Napi::Value& value) {
  Holder& holder = Held(value);
  if (!holder.capture) {
    throw Failure("ERR_USAGE_CLOSED", "the capture is closed", "Use it before close().");
  }
  return *holder.capture;
}

uint32_t PageNumber(const Napi::Value& value, const char* name) {
  const uint64_t number = WholeNumber(value, name);
  if (number > UINT32_MAX) {
    throw Failure("ERR_USAGE_RANGE", std::string(name) + " lies outside any block",
                  "Stay within the block.");
  }
  return static_cast<uint32_t>(number);
}

void Report(const CaptureStats& stats, const Napi::Value& target) {
  auto out = target.As<Napi::Float64Array>();
  const double values[] = {static_cast<double>(stats.pages), static_cast<double>(stats.runs),
                           static_cast<double>(stats.scan_ns), static_cast<double>(stats.copy_ns)};
  for (size_t i = 0; i < 4 && i < out.ElementLength(); ++i) out[i] = values[i];
}

// (tracker, block, memory | undefined, threads) -> handle
Napi::Value Create(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    auto tracker = UnwrapTracker(info[0]);
    std::shared_ptr<MappedMemory> memory;
    if (!info[2].IsUndefined()) memory = UnwrapMemory(info[2]);
    auto holder = std::make_unique<Holder>();
    holder->capture =
        std::make_unique<Capture>(std::move(tracker), WholeNumber(info[1], "block"),
                                  std::move(memory), static_cast<int>(WholeNumber(info[3], "threads")));
    auto handle = Napi::External<Holder>::New(info.Env(), holder.release(),
                                              [](Napi::Env, Holder* held) { delete held; });
    handle.TypeTag(&kCaptureTag);
    return handle;
  });
}

// (handle, fromPage, pageCount, full, stats: Float64Array(4)) fills pages, runs, scanNs, copyNs.
Napi::Value Take(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    Holder& holder = Held(info[0]);
    Capture& capture = Open(info[0]);
    holder.Forget();
    const CaptureStats stats =
        capture.Take(PageNumber(info[1], "fromPage"), PageNumber(info[2], "pageCount"),
                     info[3].ToBoolean());
    Report(stats, info[4]);
    return info.Env().Undefined();
  });
}

// (handle, stats: Float64Array(4)), while the machine runs.
Napi::Value TakeAhead(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    Holder& holder = Held(info[0]);
    Capture& capture = Open(info[0]);
    holder.Forget();
    Report(capture.TakeAhead(), info[1]);
    return info.Env().Undefined();
  });
}

// External<StagedPages>: what the encoder takes. It stands for nothing after the next capture, until it
// is asked for again.
Napi::Value Staged(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    Holder& holder = Held(info[0]);
    if (holder.capture) *holder.staged = holder.capture->staged();
    auto* kept = new std::shared_ptr<StagedPages>(holder.staged);
    auto handle = Napi::External<StagedPages>::New(
        info.Env(), kept->get(),
        [](Napi::Env, StagedPages*, std::shared_ptr<StagedPages>* hint) { delete hint; }, kept);
    handle.TypeTag(&kStagedPagesTag);
    return handle;
  });
}

Napi::Value StagedIndexes(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const StagedPages staged = Open(info[0]).staged();
    auto indexes = Napi::Uint32Array::New(info.Env(), staged.count);
    std::copy(staged.page_index, staged.page_index + staged.count, indexes.Data());
    return indexes;
  });
}

Napi::Value StagedPage(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const StagedPages staged = Open(info[0]).staged();
    const uint64_t position = WholeNumber(info[1], "position");
    if (position >= staged.count) {
      throw Failure("ERR_USAGE_RANGE", "there is no staged page " + std::to_string(position),
                    "Stay within the staged pages.");
    }
    return Napi::Buffer<uint8_t>::Copy(info.Env(), staged.Page(position), kPageBytes);
  });
}

Napi::Value Trim(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    Holder& holder = Held(info[0]);
    holder.Forget();
    Open(info[0]).Trim();
    return info.Env().Undefined();
  });
}

Napi::Value Close(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    Holder& holder = Held(info[0]);
    holder.Forget();
    holder.capture.reset();
    return info.Env().Undefined();
  });
}

}  // namespace

void InitCapture(Napi::Env env, Napi::Object exports) {
  exports.Set("captureCreate", Napi::Function::New(env, Create));
  exports.Set("captureTake", Napi::Function::New(env, Take));
  exports.Set("captureTakeAhead", Napi::Function::New(env, TakeAhead));
  exports.Set("captureStaged", Napi::Function::New(env, Staged));
  exports.Set("captureStagedIndexes", Napi::Function::New(env, StagedIndexes));
  exports.Set("captureStagedPage", Napi::Function::New(env, StagedPage));
  exports.Set("captureTrim", Napi::Function::New(env, Trim));
  exports.Set("captureClose", Napi::Function::New(env, Close));
}

}  // namespace romulus
