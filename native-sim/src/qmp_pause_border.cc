// The JavaScript face of StatePipe and QmpPause. Synchronous: it belongs to a worker thread that
// has nothing else to do during a pause; its functions are called back in that same thread.
#include "areas.h"
#include "border.h"
#include "memory.h"
#include "qmp_pause.h"

namespace romulus {

namespace {

constexpr napi_type_tag kQmpPauseTag = {0x524f4d554c555351ULL, 0x504155534530303fULL};
constexpr napi_type_tag kStatePipeTag = {0x524f4d554c555350ULL, 0x4950453030303031ULL};

using PipeHolder = std::shared_ptr<StatePipe>;

QmpPause& Held(const Napi::Value& value) {
  if (!value.IsExternal() || !value.As<Napi::External<QmpPause>>().CheckTypeTag(&kQmpPauseTag)) {
    throw Failure("ERR_USAGE_PAUSE", "this is not the handle of a QmpPause",
                  "Pass the handle that qmpPauseCreate gave.");
  }
  return *value.As<Napi::External<QmpPause>>().Data();
}

PipeHolder& PipeOf(const Napi::Value& value) {
  if (!value.IsExternal() || !value.As<Napi::External<PipeHolder>>().CheckTypeTag(&kStatePipeTag)) {
    throw Failure("ERR_USAGE_PAUSE", "this is not the handle of a state pipe",
                  "Pass the handle that statePipeCreate gave.");
  }
  PipeHolder& holder = *value.As<Napi::External<PipeHolder>>().Data();
  if (!holder) throw Failure("ERR_USAGE_CLOSED", "the state pipe is closed", "Use it before close().");
  return holder;
}

// (directory, uid, gid) -> handle.
Napi::Value CreatePipe(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    auto handle = Napi::External<PipeHolder>::New(
        info.Env(),
        new PipeHolder(std::make_shared<StatePipe>(
            info[0].ToString().Utf8Value(), static_cast<uid_t>(WholeNumber(info[1], "uid")),
            static_cast<gid_t>(WholeNumber(info[2], "gid")))),
        [](Napi::Env, PipeHolder* held) { delete held; });
    handle.TypeTag(&kStatePipeTag);
    return handle;
  });
}

Napi::Value PipePath(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(),
                  [&] { return Napi::String::New(info.Env(), PipeOf(info[0])->path()); });
}

Napi::Value PipeDescriptor(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(),
                  [&] { return Napi::Number::New(info.Env(), PipeOf(info[0])->descriptor()); });
}

// The pipe goes when no QmpPause has it either.
Napi::Value ClosePipe(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    PipeOf(info[0]).reset();
    return info.Env().Undefined();
  });
}

// (parent directory, prefix) -> how many.
Napi::Value ReleaseAbandonedPipes(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const size_t count =
        ReleaseAbandoned(info[0].ToString().Utf8Value(), info[1].ToString().Utf8Value());
    return Napi::Number::New(info.Env(), static_cast<double>(count));
  });
}

// (fd, state pipe, guardian's page | undefined, pid of QEMU or 0) -> handle. The descriptor stays the caller's.
Napi::Value Create(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    std::shared_ptr<MappedMemory> page;
    if (!info[2].IsUndefined()) page = UnwrapMemory(info[2]);
    auto handle = Napi::External<QmpPause>::New(
        info.Env(),
        new QmpPause(static_cast<int>(WholeNumber(info[0], "fd")), PipeOf(info[1]),
                     std::move(page), static_cast<pid_t>(WholeNumber(info[3], "pid"))),
        [](Napi::Env, QmpPause* held) { delete held; });
    handle.TypeTag(&kQmpPauseTag);
    return handle;
  });
}

// (handle, {save, saveId, status, statusId, cont, contId, stateBytesMax, timeoutMs, rescueMs},
// whileStopped, meanwhile, times: Float64Array(5)) -> outcome. Fills the times in nanoseconds since
// the request.
Napi::Value Take(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    QmpPause& pause = Held(info[0]);
    const auto given = info[1].As<Napi::Object>();
    const auto text = [&](const char* key) { return given.Get(key).ToString().Utf8Value(); };
    const auto number = [&](const char* key) { return WholeNumber(given.Get(key), key); };
    const std::string save = text("save");
    const std::string status = text("status");
    const std::string cont = text("cont");
    const std::string save_id = text("saveId");
    const std::string status_id = text("statusId");
    const std::string cont_id = text("contId");
    PauseRequest request{save, status, cont, save_id, status_id, cont_id};
    request.state_bytes_max = number("stateBytesMax");
    request.timeout_ms = static_cast<int>(number("timeoutMs"));
    request.rescue_ms = static_cast<int>(number("rescueMs"));
    const auto while_stopped = info[2].As<Napi::Function>();
    const auto meanwhile = info[3].As<Napi::Function>();
    const PauseOutcome outcome = pause.Take(
        request, [&] { while_stopped.Call({}); }, [&] { meanwhile.Call({}); });
    auto times = info[4].As<Napi::Float64Array>();
    const PauseTimes& taken = pause.times();
    const uint64_t values[] = {taken.stopped_ns, taken.held_ns, taken.captured_ns, taken.saved_ns,
                               taken.resumed_ns};
    for (size_t i = 0; i < 5 && i < times.ElementLength(); ++i) {
      times[i] = static_cast<double>(values[i]);
    }
    return Napi::Number::New(info.Env(), static_cast<int>(outcome));
  });
}

Napi::Value BufferOf(Napi::Env env, const std::string& bytes) {
  return Napi::Buffer<char>::Copy(env, bytes.data(), bytes.size());
}

// Lets go of the pipe and the page; nothing can be taken any more.
Napi::Value Close(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    Held(info[0]).Close();
    return info.Env().Undefined();
  });
}

// (handle) -> Buffer: the device state that came.
Napi::Value State(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] { return BufferOf(info.Env(), Held(info[0]).state()); });
}

// (handle) -> Buffer: what was read and belongs to the client.
Napi::Value TakeForeign(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] { return BufferOf(info.Env(), Held(info[0]).TakeForeign()); });
}

Napi::Value Refusal(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(),
                  [&] { return Napi::String::New(info.Env(), Held(info[0]).refusal()); });
}

}  // namespace

void InitQmpPause(Napi::Env env, Napi::Object exports) {
  exports.Set("statePipeCreate", Napi::Function::New(env, CreatePipe));
  exports.Set("statePipePath", Napi::Function::New(env, PipePath));
  exports.Set("statePipeDescriptor", Napi::Function::New(env, PipeDescriptor));
  exports.Set("statePipeClose", Napi::Function::New(env, ClosePipe));
  exports.Set("statePipesRelease", Napi::Function::New(env, ReleaseAbandonedPipes));
  exports.Set("qmpPauseCreate", Napi::Function::New(env, Create));
  exports.Set("qmpPauseTake", Napi::Function::New(env, Take));
  exports.Set("qmpPauseClose", Napi::Function::New(env, Close));
  exports.Set("qmpPauseState", Napi::Function::New(env, State));
  exports.Set("qmpPauseTakeForeign", Napi::Function::New(env, TakeForeign));
  exports.Set("qmpPauseRefusal", Napi::Function::New(env, Refusal));
}

}  // namespace romulus
