// The JavaScript face of DirtyTracker: plain functions over a tagged handle. All of them belong to
// the thread that attached. A collected handle detaches, close() does so at once.
#include "tracker.h"

#include <sys/types.h>

#include "areas.h"
#include "border.h"
#include "tracker_handle.h"

namespace romulus {

namespace {

constexpr napi_type_tag kTrackerTag = {0x524f4d554c555354ULL, 0x5241434b45523031ULL};
constexpr uint64_t kPidMax = 1 << 22;

struct Holder {
  std::shared_ptr<DirtyTracker> tracker;
};

uint64_t Address(const Napi::Value& value) {
  if (!value.IsBigInt()) {
    throw Failure("ERR_USAGE_NUMBER", "the address of a range is not a bigint",
                  "Pass addresses as bigint.");
  }
  bool lossless = false;
  const uint64_t address = value.As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless) {
    throw Failure("ERR_USAGE_NUMBER", "the address of a range has more than 64 bits",
                  "Pass an address of this host.");
  }
  return address;
}

// (pid, [address, bytes]..., kind, mprotectSocket) -> handle
Napi::Value Attach(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    TrackerOptions options;
    const uint64_t pid = WholeNumber(info[0], "pid");
    if (pid > kPidMax || !info[1].IsArray()) {
      throw Failure("ERR_USAGE_TRACKER_RANGE", "there is no such process or range",
                    "Pass a process id and an array of ranges.");
    }
    options.pid = static_cast<pid_t>(pid);
    const auto flat = info[1].As<Napi::Array>();
    for (uint32_t i = 0; i + 1 < flat.Length() && i < 2 * kTrackedRangesMax + 2; i += 2) {
      options.ranges.push_back({Address(flat.Get(i)), WholeNumber(flat.Get(i + 1), "bytes")});
    }
    options.kind = info[2].ToString().Utf8Value();
    options.mprotect_socket = info[3].ToString().Utf8Value();
    auto handle =
        Napi::External<Holder>::New(info.Env(), new Holder{DirtyTracker::Attach(options)},
                                    [](Napi::Env, Holder* holder) { delete holder; });
    handle.TypeTag(&kTrackerTag);
    return handle;
  });
}

Napi::Value Kind(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(),
                  [&] { return Napi::String::New(info.Env(), UnwrapTracker(info[0])->kind()); });
}

Napi::Value ExactWhileRunning(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    return Napi::Boolean::New(info.Env(), UnwrapTracker(info[0])->exact_while_running());
  });
}

// (handle, range, fromPage, pageCount) -> Uint32Array of [firstPage, pageCount] pairs
Napi::Value Scan(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const auto tracker = UnwrapTracker(info[0]);
    const uint64_t first = WholeNumber(info[2], "fromPage");
    const uint64_t count = WholeNumber(info[3], "pageCount");
    if (first > UINT32_MAX || count > UINT32_MAX) {
      throw Failure("ERR_USAGE_RANGE", "the pages lie outside the tracked range",
                    "Stay within the tracked memory.");
    }
    PageRuns runs;
    tracker->Refresh();
    tracker->Take(WholeNumber(info[1], "range"), static_cast<uint32_t>(first),
                  static_cast<uint32_t>(count), runs);
    tracker->CheckAlive();
    auto pairs = Napi::Uint32Array::New(info.Env(), runs.size() * 2);
    for (size_t i = 0; i < runs.size(); ++i) {
      pairs[2 * i] = runs[i].first_page;
      pairs[2 * i + 1] = runs[i].page_count;
    }
    return pairs;
  });
}

Napi::Value Close(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    UnwrapTracker(info[0])->Detach();
    return info.Env().Undefined();
  });
}

}  // namespace

std::shared_ptr<DirtyTracker> UnwrapTracker(const Napi::Value& value) {
  if (!value.IsExternal() || !value.As<Napi::External<Holder>>().CheckTypeTag(&kTrackerTag)) {
    throw Failure("ERR_USAGE_TRACKER", "this is not the handle of a Tracker",
                  "Pass the `handle` of a Tracker.");
  }
  return value.As<Napi::External<Holder>>().Data()->tracker;
}

void InitTracker(Napi::Env env, Napi::Object exports) {
  exports.Set("trackerAttach", Napi::Function::New(env, Attach));
  exports.Set("trackerKind", Napi::Function::New(env, Kind));
  exports.Set("trackerExactWhileRunning", Napi::Function::New(env, ExactWhileRunning));
  exports.Set("trackerScan", Napi::Function::New(env, Scan));
  exports.Set("trackerClose", Napi::Function::New(env, Close));
}

}  // namespace romulus
