// The JavaScript face of QmpPause. Synchronous: it belongs to a worker thread that has nothing else
// to do during a pause; `whileStopped` is called back in that same thread.
#include "areas.h"
#include "border.h"
#include "memory.h"
#include "qmp_pause.h"

namespace romulus {

namespace {

constexpr napi_type_tag kQmpPauseTag = {0x524f4d554c555351ULL, 0x504155534530303fULL};

QmpPause& Held(const Napi::Value& value) {
  if (!value.IsExternal() || !value.As<Napi::External<QmpPause>>().CheckTypeTag(&kQmpPauseTag)) {
    throw Failure("ERR_USAGE_PAUSE", "this is not the handle of a QmpPause",
                  "Pass the handle that qmpPauseCreate gave.");
  }
  return *value.As<Napi::External<QmpPause>>().Data();
}

// (fd, in-pause memory | undefined) -> handle. The descriptor stays the caller's.
Napi::Value Create(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    std::shared_ptr<MappedMemory> word;
    if (!info[1].IsUndefined()) word = UnwrapMemory(info[1]);
    auto handle = Napi::External<QmpPause>::New(
        info.Env(), new QmpPause(static_cast<int>(WholeNumber(info[0], "fd")), std::move(word)),
        [](Napi::Env, QmpPause* held) { delete held; });
    handle.TypeTag(&kQmpPauseTag);
    return handle;
  });
}

// (handle, {stopAndSave, cont, stopId, saveId, contId, timeoutMs, rescueMs}, whileStopped,
//  times: Float64Array(4)) -> outcome. Fills the times in nanoseconds since the request.
Napi::Value Take(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    QmpPause& pause = Held(info[0]);
    const auto given = info[1].As<Napi::Object>();
    const auto text = [&](const char* key) { return given.Get(key).ToString().Utf8Value(); };
    const std::string stop_and_save = text("stopAndSave");
    const std::string cont = text("cont");
    const std::string stop_id = text("stopId");
    const std::string save_id = text("saveId");
    const std::string cont_id = text("contId");
    PauseRequest request{stop_and_save, cont, stop_id, save_id, cont_id};
    request.timeout_ms = static_cast<int>(WholeNumber(given.Get("timeoutMs"), "timeoutMs"));
    request.rescue_ms = static_cast<int>(WholeNumber(given.Get("rescueMs"), "rescueMs"));
    const auto while_stopped = info[2].As<Napi::Function>();
    const PauseOutcome outcome = pause.Take(request, [&] { while_stopped.Call({}); });
    auto times = info[3].As<Napi::Float64Array>();
    const PauseTimes& taken = pause.times();
    const uint64_t values[] = {taken.stopped_ns, taken.captured_ns, taken.saved_ns,
                               taken.resumed_ns};
    for (size_t i = 0; i < 4 && i < times.ElementLength(); ++i) {
      times[i] = static_cast<double>(values[i]);
    }
    return Napi::Number::New(info.Env(), static_cast<int>(outcome));
  });
}

// (handle) -> Buffer: what was read and belongs to the client.
Napi::Value TakeForeign(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const std::string bytes = Held(info[0]).TakeForeign();
    return Napi::Buffer<char>::Copy(info.Env(), bytes.data(), bytes.size());
  });
}

Napi::Value Refusal(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(),
                  [&] { return Napi::String::New(info.Env(), Held(info[0]).refusal()); });
}

}  // namespace

void InitQmpPause(Napi::Env env, Napi::Object exports) {
  exports.Set("qmpPauseCreate", Napi::Function::New(env, Create));
  exports.Set("qmpPauseTake", Napi::Function::New(env, Take));
  exports.Set("qmpPauseTakeForeign", Napi::Function::New(env, TakeForeign));
  exports.Set("qmpPauseRefusal", Napi::Function::New(env, Refusal));
}

}  // namespace romulus
