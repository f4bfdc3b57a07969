// The JavaScript face of MappedMemory: plain functions over a tagged handle.
#include "memory.h"

#include <optional>

#include "areas.h"
#include "border.h"

namespace romulus {

namespace {

constexpr napi_type_tag kMemoryTag = {0x524f4d554c55534dULL, 0x454d4f5259303031ULL};
constexpr uint64_t kReadBytesMax = uint64_t{1} << 30;

// What the handle points to; collected with it. close() empties it.
struct Holder {
  std::shared_ptr<MappedMemory> memory;
};

Holder& Held(const Napi::Value& value) {
  if (!value.IsExternal() || !value.As<Napi::External<Holder>>().CheckTypeTag(&kMemoryTag)) {
    throw Failure("ERR_USAGE_MEMORY", "this is not the handle of a Memory",
                  "Pass the `handle` of a Memory.");
  }
  return *value.As<Napi::External<Holder>>().Data();
}

Napi::Value Wrap(Napi::Env env, std::shared_ptr<MappedMemory> memory) {
  auto handle = Napi::External<Holder>::New(env, new Holder{std::move(memory)},
                                            [](Napi::Env, Holder* holder) { delete holder; });
  handle.TypeTag(&kMemoryTag);
  return handle;
}

// The third argument may be left out: ordinary pages.
Napi::Value Create(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const uint64_t huge_page_bytes =
        info[2].IsUndefined() ? 0 : WholeNumber(info[2], "hugePageBytes");
    return Wrap(info.Env(),
                MappedMemory::Create(info[0].ToString().Utf8Value(), WholeNumber(info[1], "bytes"),
                                     huge_page_bytes));
  });
}

Napi::Value MapPath(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    return Wrap(info.Env(),
                MappedMemory::MapPath(info[0].ToString().Utf8Value(),
                                      WholeNumber(info[1], "bytes"), info[2].ToBoolean()));
  });
}

Napi::Value MapFd(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    return Wrap(info.Env(), MappedMemory::MapFd(static_cast<int>(WholeNumber(info[0], "fd")),
                                                WholeNumber(info[1], "bytes"),
                                                info[2].ToBoolean()));
  });
}

Napi::Value FdOf(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(),
                  [&] { return Napi::Number::New(info.Env(), UnwrapMemory(info[0])->fd()); });
}

// Where the mapping stands in this process, for a tracker of this process.
Napi::Value AddressOf(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    return Napi::BigInt::New(info.Env(),
                             reinterpret_cast<uint64_t>(UnwrapMemory(info[0])->data()));
  });
}

Napi::Value Read(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const auto memory = UnwrapMemory(info[0]);
    const uint64_t offset = WholeNumber(info[1], "offset");
    const uint64_t length = WholeNumber(info[2], "length");
    if (length > kReadBytesMax) {
      throw Failure("ERR_LIMIT_READ", "a read of " + std::to_string(length) + " bytes is too long",
                    "Read at most 1 GiB at a time.");
    }
    auto buffer = Napi::Buffer<uint8_t>::New(info.Env(), static_cast<size_t>(length));
    memory->Read(offset, length, buffer.Data());
    return buffer;
  });
}

Napi::Value Write(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&]() -> Napi::Value {
    if (!info[2].IsTypedArray()) {
      throw Failure("ERR_USAGE_BYTES", "the data to write is not a byte array",
                    "Pass a Uint8Array.");
    }
    const auto data = info[2].As<Napi::Uint8Array>();
    UnwrapMemory(info[0])->Write(WholeNumber(info[1], "offset"), data.ByteLength(), data.Data());
    return info.Env().Undefined();
  });
}

// In a thread of the pool: it may take seconds. The reference keeps the object, whatever is closed
// meanwhile. Deletes itself when it is done.
class Allocation final : public Napi::AsyncWorker {
 public:
  Allocation(Napi::Env env, std::shared_ptr<MappedMemory> memory)
      : Napi::AsyncWorker(env),
        promise_(Napi::Promise::Deferred::New(env)),
        memory_(std::move(memory)) {}

  Napi::Promise promise() const { return promise_.Promise(); }

  void Execute() override {
    try {
      memory_->Allocate();
    } catch (const Failure& failure) {
      failure_ = failure;
    }
    // Before anybody hears of it: what was taken is free again when the owner closes it then.
    memory_.reset();
  }

  void OnOK() override {
    if (failure_) {
      promise_.Reject(JavaScriptError(Env(), *failure_).Value());
    } else {
      promise_.Resolve(Env().Undefined());
    }
  }

 private:
  Napi::Promise::Deferred promise_;
  std::shared_ptr<MappedMemory> memory_;
  std::optional<Failure> failure_;
};

Napi::Value Allocate(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&]() -> Napi::Value {
    auto* allocation = new Allocation(info.Env(), UnwrapMemory(info[0]));
    const Napi::Promise promise = allocation->promise();
    allocation->Queue();
    return promise;
  });
}

Napi::Value PopulatedBytes(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    return Napi::Number::New(info.Env(),
                             static_cast<double>(UnwrapMemory(info[0])->PopulatedBytes()));
  });
}

Napi::Value Compare(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    return Napi::Number::New(
        info.Env(),
        static_cast<double>(UnwrapMemory(info[0])->FirstDifferentPage(*UnwrapMemory(info[1]))));
  });
}

Napi::Value Close(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    Held(info[0]).memory.reset();
    return info.Env().Undefined();
  });
}

}  // namespace

std::shared_ptr<MappedMemory> UnwrapMemory(const Napi::Value& value) {
  const Holder& holder = Held(value);
  if (!holder.memory) {
    throw Failure("ERR_USAGE_CLOSED", "the memory is closed", "Use it before close().");
  }
  return holder.memory;
}

void InitMemory(Napi::Env env, Napi::Object exports) {
  exports.Set("memoryCreate", Napi::Function::New(env, Create));
  exports.Set("memoryMapPath", Napi::Function::New(env, MapPath));
  exports.Set("memoryMapFd", Napi::Function::New(env, MapFd));
  exports.Set("memoryFd", Napi::Function::New(env, FdOf));
  exports.Set("memoryAddress", Napi::Function::New(env, AddressOf));
  exports.Set("memoryRead", Napi::Function::New(env, Read));
  exports.Set("memoryWrite", Napi::Function::New(env, Write));
  exports.Set("memoryAllocate", Napi::Function::New(env, Allocate));
  exports.Set("memoryPopulatedBytes", Napi::Function::New(env, PopulatedBytes));
  exports.Set("memoryCompare", Napi::Function::New(env, Compare));
  exports.Set("memoryClose", Napi::Function::New(env, Close));
}

}  // namespace romulus
