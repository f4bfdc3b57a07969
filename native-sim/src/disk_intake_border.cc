// The JavaScript face of DiskIntake. An intake belongs to the thread that made it, which is told
// through a thread-safe function. The words that other threads read lie in memory of SharedArrayBuffers,
// which the handle keeps for as long as the intake's thread may write to them.
#include <algorithm>
#include <cstring>

#include "areas.h"
#include "border.h"
#include "disk_intake.h"
#include "memory.h"
#include "wake.h"

namespace romulus {

namespace {

constexpr napi_type_tag kDiskIntakeTag = {0x524f4d554c555351ULL, 0x4449534b494e544bULL};
// A piece of this size gets a buffer of its own, which can be used again; smaller ones share one.
constexpr uint64_t kAloneBytes = uint64_t{64} << 10;

struct IntakeHandle {
  std::unique_ptr<DiskIntake> intake;
  Wake wake;
  std::vector<Napi::ObjectReference> words;
  std::shared_ptr<MappedMemory> page;
  bool is_closed = false;

  void Close() {
    if (is_closed) return;
    is_closed = true;
    intake->Close();
    wake.Release();
    words.clear();
    page.reset();
  }
};

void CloseHeld(void* held) { static_cast<IntakeHandle*>(held)->Close(); }

IntakeHandle& HandleOf(const Napi::Value& value) {
  if (!value.IsExternal() ||
      !value.As<Napi::External<IntakeHandle>>().CheckTypeTag(&kDiskIntakeTag)) {
    throw Failure("ERR_USAGE_DISKS", "this is not the handle of a DiskIntake",
                  "Pass the handle that diskIntakeCreate gave.");
  }
  return *value.As<Napi::External<IntakeHandle>>().Data();
}

DiskIntake& Held(const Napi::Value& value) {
  const IntakeHandle& handle = HandleOf(value);
  if (handle.is_closed) {
    throw Failure("ERR_USAGE_CLOSED", "the intake is closed", "Use it before close().");
  }
  return *handle.intake;
}

// The words of a BigInt64Array, kept by the handle.
int64_t* Words(IntakeHandle& handle, const Napi::Value& value, size_t count) {
  const bool is_words =
      value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_bigint64_array;
  if (!is_words || value.As<Napi::TypedArray>().ElementLength() < count) {
    throw Failure("ERR_USAGE_BYTES", "there are no words to count in", "Pass a BigInt64Array.");
  }
  handle.words.push_back(Napi::Persistent(value.As<Napi::Object>()));
  return value.As<Napi::BigInt64Array>().Data();
}

std::vector<uint8_t> BytesOf(const Napi::Value& value) {
  if (!value.IsTypedArray()) {
    throw Failure("ERR_USAGE_BYTES", "this is not a byte array", "Pass a Uint8Array.");
  }
  const auto bytes = value.As<Napi::Uint8Array>();
  return {bytes.Data(), bytes.Data() + bytes.ByteLength()};
}

// ({disksBytes, waitingBytesMax, blockBytes, counts, beat?, page?, pageWord}, onWake) -> handle
Napi::Value Create(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return AtBorder(env, [&] {
    const auto given = info[0].As<Napi::Object>();
    auto handle = std::make_unique<IntakeHandle>();
    DiskIntakeOptions options;
    const auto disks = given.Get("disksBytes").As<Napi::Array>();
    for (uint32_t disk = 0; disk < disks.Length(); ++disk) {
      options.disks_bytes.push_back(WholeNumber(disks.Get(disk), "disksBytes"));
    }
    options.limits.waiting_bytes_max = WholeNumber(given.Get("waitingBytesMax"), "waitingBytesMax");
    options.limits.block_bytes = WholeNumber(given.Get("blockBytes"), "blockBytes");
    if (options.limits.block_bytes == 0) {
      throw Failure("ERR_USAGE_NUMBER", "a block has no bytes", "Pass the size of a block.");
    }
    int64_t* const counts = Words(*handle, given.Get("counts"), 2);
    options.words.received = counts;
    options.words.waiting_bytes = counts + 1;
    if (!given.Get("beat").IsUndefined()) {
      options.words.beats.push_back(Words(*handle, given.Get("beat"), 1));
    }
    if (!given.Get("page").IsUndefined()) {
      handle->page = UnwrapMemory(given.Get("page"));
      const uint64_t word = WholeNumber(given.Get("pageWord"), "pageWord");
      if (word >= handle->page->bytes() / sizeof(int64_t)) {
        throw Failure("ERR_USAGE_NUMBER", "the word to beat into lies outside its memory",
                      "Pass the index of a 64-bit word of the memory.");
      }
      options.words.beats.push_back(reinterpret_cast<int64_t*>(handle->page->data()) + word);
    }
    handle->wake = MakeWake(env, info[1], "disks");
    options.wake = [wake = handle->wake] { wake.NonBlockingCall(); };
    try {
      handle->intake = std::make_unique<DiskIntake>(std::move(options));
    } catch (...) {
      handle->wake.Release();
      throw;
    }
    // A thread that ends closes its intakes before what they wake, and count in, is gone.
    napi_add_env_cleanup_hook(env, CloseHeld, handle.get());
    auto external = Napi::External<IntakeHandle>::New(
        env, handle.release(), [](Napi::Env env, IntakeHandle* held) {
          napi_remove_env_cleanup_hook(env, CloseHeld, held);
          held->Close();
          delete held;
        });
    external.TypeTag(&kDiskIntakeTag);
    return external;
  });
}

// (handle, disk, descriptor, words, early): takes the descriptor over, whatever comes of it.
Napi::Value Adopt(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    OpenedDisk opened;
    opened.socket = Fd(static_cast<int>(WholeNumber(info[2], "descriptor")));
    DiskIntake& intake = Held(info[0]);
    opened.disk = static_cast<uint32_t>(WholeNumber(info[1], "disk"));
    if (opened.disk >= intake.disks()) {
      throw Failure("ERR_USAGE_NUMBER", "there is no such disk", "Pass the index of a disk.");
    }
    opened.words = BytesOf(info[3]);
    opened.early = BytesOf(info[4]);
    intake.Adopt(std::move(opened));
    return info.Env().Undefined();
  });
}

// (handle, bytes)
Napi::Value WakeAbove(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    Held(info[0]).WakeAbove(WholeNumber(info[1], "bytes"));
    return info.Env().Undefined();
  });
}

// (handle) -> [{disk, code, text}]
Napi::Value TakeGone(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return AtBorder(env, [&] {
    const std::vector<GoneDisk> gone = Held(info[0]).TakeGone();
    auto result = Napi::Array::New(env, gone.size());
    for (uint32_t index = 0; index < gone.size(); ++index) {
      auto entry = Napi::Object::New(env);
      entry.Set("disk", Napi::Number::New(env, gone[index].disk));
      entry.Set("code", Napi::String::New(env, gone[index].code));
      entry.Set("text", Napi::String::New(env, gone[index].text));
      result.Set(index, entry);
    }
    return result;
  });
}

bool IsZero(const WritePiece& piece) {
  const uint8_t* const data = piece.data.get();
  return data == nullptr ||
         (data[0] == 0 && std::memcmp(data, data + 1, static_cast<size_t>(piece.bytes - 1)) == 0);
}

// Lays pieces out in buffers of JavaScript's.
class Handout {
 public:
  Handout(Napi::Env env, Napi::Array spares, size_t room_bytes)
      : env_(env), spares_(spares), room_bytes_(room_bytes) {}

  void Add(const QueuedPiece& queued, bool is_zero) {
    const WritePiece& piece = queued.piece;
    if (!is_zero) return AddData(queued);
    // Zeros come in any length, and leave in pieces as everything does.
    for (uint64_t done = 0; done < piece.bytes; done += kPieceBytesMax) {
      const uint64_t bytes = std::min<uint64_t>(piece.bytes - done, kPieceBytesMax);
      Note(queued.disk, piece.offset + done, bytes, {-1, 0, 0});
    }
  }

  // {notes: Float64Array, buffers: ArrayBuffer[]}; told of each piece: disk, offset, bytes, which
  // buffer (or -1: zeros), where in it, and how many bytes before it are nobody's.
  Napi::Value Finish() {
    auto buffers = Napi::Array::New(env_, buffers_bytes_.size());
    std::vector<uint8_t*> data;
    for (uint32_t index = 0; index < buffers_bytes_.size(); ++index) {
      Napi::ArrayBuffer buffer = MakeBuffer(buffers_bytes_[index]);
      data.push_back(static_cast<uint8_t*>(buffer.Data()));
      buffers.Set(index, buffer);
    }
    for (const Part& part : parts_) {
      std::memcpy(data[part.buffer] + part.at, part.piece->data.get(), part.piece->bytes);
    }
    auto notes = Napi::Float64Array::New(env_, notes_.size());
    std::copy(notes_.begin(), notes_.end(), notes.Data());
    auto result = Napi::Object::New(env_);
    result.Set("notes", notes);
    result.Set("buffers", buffers);
    return result;
  }

 private:
  struct Part {
    const WritePiece* piece;
    size_t buffer;
    size_t at;
  };
  struct Place {
    double buffer;
    size_t at;
    size_t room_bytes;
  };

  void AddData(const QueuedPiece& queued) {
    const WritePiece& piece = queued.piece;
    const bool is_alone = piece.bytes >= kAloneBytes;
    const bool fits =
        shared_ < buffers_bytes_.size() && buffers_bytes_[shared_] + piece.bytes <= kPieceBytesMax;
    size_t buffer = shared_;
    if (is_alone || !fits) {
      buffer = buffers_bytes_.size();
      buffers_bytes_.push_back(is_alone ? room_bytes_ : 0);
      if (!is_alone) shared_ = buffer;
    }
    const size_t at = buffers_bytes_[buffer];
    buffers_bytes_[buffer] += piece.bytes;
    parts_.push_back({&piece, buffer, at});
    Note(queued.disk, piece.offset, piece.bytes,
         {static_cast<double>(buffer), at, is_alone ? room_bytes_ : 0});
  }

  void Note(uint32_t disk, uint64_t offset, uint64_t bytes, const Place& place) {
    notes_.insert(notes_.end(), {double(disk), double(offset), double(bytes), place.buffer,
                                 double(place.at), double(place.room_bytes)});
  }

  Napi::ArrayBuffer MakeBuffer(size_t bytes) {
    if (bytes == room_bytes_ + kPieceBytesMax && spares_used_ < spares_.Length()) {
      const Napi::Value spare = spares_.Get(spares_used_++);
      if (spare.IsArrayBuffer() && spare.As<Napi::ArrayBuffer>().ByteLength() == bytes) {
        return spare.As<Napi::ArrayBuffer>();
      }
    }
    return Napi::ArrayBuffer::New(env_, bytes);
  }

  Napi::Env env_;
  Napi::Array spares_;
  size_t room_bytes_;
  uint32_t spares_used_ = 0;
  std::vector<size_t> buffers_bytes_;
  // The buffer that small pieces are put into; beyond all when there is none.
  size_t shared_ = SIZE_MAX;
  std::vector<Part> parts_;
  std::vector<double> notes_;
};

// The pieces that `take` takes, copied; `finds_zeros`: those that are all zeros leave as such.
template <typename Take>
Napi::Value HandOut(const Napi::CallbackInfo& info, bool finds_zeros, Take&& take) {
  const Napi::Env env = info.Env();
  return AtBorder(env, [&] {
    DiskIntake& intake = Held(info[0]);
    const uint64_t limit = WholeNumber(info[1], "limit");
    Handout handout(env, info[2].As<Napi::Array>(), WholeNumber(info[3], "roomBytes"));
    std::vector<QueuedPiece> taken = take(intake, limit);
    for (const QueuedPiece& queued : taken) {
      const WritePiece& piece = queued.piece;
      handout.Add(queued, piece.data == nullptr || (finds_zeros && IsZero(piece)));
    }
    const Napi::Value result = handout.Finish();
    intake.Free(std::move(taken));
    return result;
  });
}

// (handle, dataBytes, spares, roomBytes) -> {notes, buffers}
Napi::Value TakeSome(const Napi::CallbackInfo& info) {
  return HandOut(info, true, [](DiskIntake& intake, uint64_t data_bytes) {
    return intake.TakeSome(data_bytes);
  });
}

// (handle, count, spares, roomBytes) -> {notes, buffers}
Napi::Value TakeThrough(const Napi::CallbackInfo& info) {
  return HandOut(info, false, [](DiskIntake& intake, uint64_t count) {
    return intake.TakeThrough(count);
  });
}

Napi::Value Rest(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    Held(info[0]).Rest();
    return info.Env().Undefined();
  });
}

// (handle) -> Buffer[]: blocks written while it rested, one bit each, by disk
Napi::Value Resume(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return AtBorder(env, [&] {
    const auto written = Held(info[0]).Resume();
    auto result = Napi::Array::New(env, written.size());
    for (uint32_t disk = 0; disk < written.size(); ++disk) {
      const auto& blocks = written[disk];
      result.Set(disk, Napi::Buffer<uint8_t>::Copy(env, blocks.data(), blocks.size()));
    }
    return result;
  });
}

// (handle): idempotent
Napi::Value Close(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    HandleOf(info[0]).Close();
    return info.Env().Undefined();
  });
}

}  // namespace

void InitDiskIntake(Napi::Env env, Napi::Object exports) {
  exports.Set("diskIntakeCreate", Napi::Function::New(env, Create));
  exports.Set("diskIntakeAdopt", Napi::Function::New(env, Adopt));
  exports.Set("diskIntakeWakeAbove", Napi::Function::New(env, WakeAbove));
  exports.Set("diskIntakeTakeGone", Napi::Function::New(env, TakeGone));
  exports.Set("diskIntakeTakeSome", Napi::Function::New(env, TakeSome));
  exports.Set("diskIntakeTakeThrough", Napi::Function::New(env, TakeThrough));
  exports.Set("diskIntakeRest", Napi::Function::New(env, Rest));
  exports.Set("diskIntakeResume", Napi::Function::New(env, Resume));
  exports.Set("diskIntakeClose", Napi::Function::New(env, Close));
}

}  // namespace romulus
