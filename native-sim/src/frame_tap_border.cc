// The JavaScript face of FrameTap. A tap belongs to the thread that made it, which is told through a
// thread-safe function; only `frameTapDrain` may be called from another JavaScript thread, by the
// number that the tap was given.
//
// The table of numbers is shared by all threads of the process. It holds weak references: a tap ends
// with its handle, whoever still knows its number.
#include <map>

#include "areas.h"
#include "border.h"
#include "frame_tap.h"
#include "memory.h"
#include "wake.h"

namespace romulus {

namespace {

constexpr napi_type_tag kFrameTapTag = {0x524f4d554c555351ULL, 0x4652414d45544150ULL};

std::mutex g_taps_mutex;
std::map<uint32_t, std::weak_ptr<FrameTap>> g_taps;
uint32_t g_next_id = 1;

struct TapHandle {
  std::shared_ptr<FrameTap> tap;
  Wake wake;
  uint32_t id = 0;
  bool is_closed = false;

  void Close() {
    if (is_closed) return;
    is_closed = true;
    {
      const std::lock_guard lock(g_taps_mutex);
      g_taps.erase(id);
    }
    tap->Close();
    wake.Release();
  }
};

void CloseHeld(void* held) { static_cast<TapHandle*>(held)->Close(); }

TapHandle& Held(const Napi::Value& value) {
  if (!value.IsExternal() || !value.As<Napi::External<TapHandle>>().CheckTypeTag(&kFrameTapTag)) {
    throw Failure("ERR_USAGE_TAP", "this is not the handle of a FrameTap",
                  "Pass the handle that frameTapCreate gave.");
  }
  return *value.As<Napi::External<TapHandle>>().Data();
}

Napi::Array Numbers(Napi::Env env, const std::vector<int>& values) {
  auto array = Napi::Array::New(env, values.size());
  for (uint32_t i = 0; i < values.size(); ++i) array.Set(i, Napi::Number::New(env, values[i]));
  return array;
}

// ({ports, bytesMax, framesMax, beat?, beatIndex?}, onWake) -> handle
Napi::Value Create(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return AtBorder(env, [&] {
    const auto given = info[0].As<Napi::Object>();
    FrameTapOptions options;
    options.ports = WholeNumber(given.Get("ports"), "ports");
    if (options.ports < 1 || options.ports > kTapPortsMax) {
      throw Failure("ERR_USAGE_NUMBER",
                    "a tap is for 1 to " + std::to_string(kTapPortsMax) + " NICs",
                    "Unplug NICs, or leave the machine's output alone.");
    }
    options.queue_bytes_max = WholeNumber(given.Get("bytesMax"), "bytesMax");
    options.queue_frames_max = WholeNumber(given.Get("framesMax"), "framesMax");
    if (!given.Get("beat").IsUndefined()) {
      options.beat = UnwrapMemory(given.Get("beat"));
      options.beat_index = WholeNumber(given.Get("beatIndex"), "beatIndex");
    }
    auto handle = std::make_unique<TapHandle>();
    handle->wake = MakeWake(env, info[1], "frames");
    options.wake = [wake = handle->wake] { wake.NonBlockingCall(); };
    try {
      handle->tap = std::make_shared<FrameTap>(std::move(options));
    } catch (...) {
      handle->wake.Release();
      throw;
    }
    {
      const std::lock_guard lock(g_taps_mutex);
      handle->id = g_next_id++;
      g_taps[handle->id] = handle->tap;
    }
    // A thread that ends closes its taps before what they wake is gone.
    napi_add_env_cleanup_hook(env, CloseHeld, handle.get());
    auto external = Napi::External<TapHandle>::New(env, handle.release(),
                                                   [](Napi::Env env, TapHandle* held) {
                                                     napi_remove_env_cleanup_hook(env, CloseHeld,
                                                                                  held);
                                                     held->Close();
                                                     delete held;
                                                   });
    external.TypeTag(&kFrameTapTag);
    return external;
  });
}

// (handle) -> {id, farEnds, captureEnds}
Napi::Value Describe(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const TapHandle& held = Held(info[0]);
    auto result = Napi::Object::New(info.Env());
    result.Set("id", Napi::Number::New(info.Env(), held.id));
    result.Set("farEnds", Numbers(info.Env(), held.tap->FarEnds()));
    result.Set("captureEnds", Numbers(info.Env(), held.tap->CaptureEnds()));
    return result;
  });
}

Napi::Value CloseFarEnds(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    Held(info[0]).tap->CloseFarEnds();
    return info.Env().Undefined();
  });
}

// (handle) -> {chunks: [{bytes: Buffer, notes: Uint32Array}], lostAfter, broken, ready}
Napi::Value Take(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return AtBorder(env, [&] {
    const FrameBatch batch = Held(info[0]).tap->Take();
    auto chunks = Napi::Array::New(env, batch.chunks.size());
    uint32_t at = 0;
    for (const FrameChunk& chunk : batch.chunks) {
      auto entry = Napi::Object::New(env);
      entry.Set("bytes",
                Napi::Buffer<uint8_t>::Copy(env, chunk.bytes.data(), chunk.bytes.size()));
      auto notes = Napi::Uint32Array::New(env, chunk.notes.size() * 2);
      for (size_t i = 0; i < chunk.notes.size(); ++i) {
        notes[2 * i] = chunk.notes[i].port;
        notes[2 * i + 1] = chunk.notes[i].lost_before;
      }
      entry.Set("notes", notes);
      chunks.Set(at++, entry);
    }
    auto broken = Napi::Array::New(env, batch.broken.size());
    at = 0;
    for (const BrokenPort& port : batch.broken) {
      auto entry = Napi::Object::New(env);
      entry.Set("port", Napi::Number::New(env, port.port));
      entry.Set("code", Napi::String::New(env, port.code));
      entry.Set("text", Napi::String::New(env, port.text));
      broken.Set(at++, entry);
    }
    auto result = Napi::Object::New(env);
    result.Set("chunks", chunks);
    result.Set("lostAfter", Napi::Number::New(env, batch.lost_after));
    result.Set("broken", broken);
    result.Set("ready", Napi::Boolean::New(env, batch.ready));
    return result;
  });
}

// (handle, port, frame) -> whether it is ready for another
Napi::Value Write(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const auto port = static_cast<uint32_t>(WholeNumber(info[1], "port"));
    const auto frame = info[2].As<Napi::Uint8Array>();
    FrameTap& tap = *Held(info[0]).tap;
    if (port >= tap.ports()) {
      throw Failure("ERR_USAGE_NUMBER", "the tap has no such NIC", "Pass the index of a NIC.");
    }
    return Napi::Boolean::New(info.Env(), tap.Write(port, frame.Data(), frame.ByteLength()));
  });
}

Napi::Value UnreadBytes(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    return Napi::Number::New(info.Env(), static_cast<double>(Held(info[0]).tap->UnreadBytes()));
  });
}

// (handle) -> {received, dropped, waitingBytes, waitingFrames}
Napi::Value Counters(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return AtBorder(env, [&] {
    const FrameTapCounters counters = Held(info[0]).tap->Counters();
    auto result = Napi::Object::New(env);
    const auto set = [&](const char* key, uint64_t value) {
      result.Set(key, Napi::Number::New(env, static_cast<double>(value)));
    };
    set("received", counters.received);
    set("dropped", counters.dropped);
    set("waitingBytes", counters.waiting_bytes);
    set("waitingFrames", counters.waiting_frames);
    return result;
  });
}

Napi::Value Close(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    Held(info[0]).Close();
    return info.Env().Undefined();
  });
}

// (id) -> frames captured so far, once the sockets are empty. From any thread.
Napi::Value Drain(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const auto id = static_cast<uint32_t>(WholeNumber(info[0], "id"));
    std::shared_ptr<FrameTap> tap;
    {
      const std::lock_guard lock(g_taps_mutex);
      const auto found = g_taps.find(id);
      if (found != g_taps.end()) tap = found->second.lock();
    }
    if (tap == nullptr) {
      throw Failure("ERR_NET_TAP_LOST", "the machine's frames are not followed any more",
                    "Nothing needs to be done: they are followed anew.");
    }
    return Napi::Number::New(info.Env(), static_cast<double>(tap->Drain()));
  });
}

}  // namespace

void InitFrameTap(Napi::Env env, Napi::Object exports) {
  exports.Set("frameTapCreate", Napi::Function::New(env, Create));
  exports.Set("frameTapDescribe", Napi::Function::New(env, Describe));
  exports.Set("frameTapCloseFarEnds", Napi::Function::New(env, CloseFarEnds));
  exports.Set("frameTapTake", Napi::Function::New(env, Take));
  exports.Set("frameTapWrite", Napi::Function::New(env, Write));
  exports.Set("frameTapUnreadBytes", Napi::Function::New(env, UnreadBytes));
  exports.Set("frameTapCounters", Napi::Function::New(env, Counters));
  exports.Set("frameTapClose", Napi::Function::New(env, Close));
  exports.Set("frameTapDrain", Napi::Function::New(env, Drain));
}

}  // namespace romulus
