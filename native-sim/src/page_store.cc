// The JavaScript face of the page stores: the primary's baseline, and batches applied to a Memory.
//
// Ownership: a baseline's handle owns the baseline until close() or collection. Calls are
// synchronous and belong to the thread that made the handle; staged pages and batches are used
// during the call only.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "areas.h"
#include "border.h"
#include "memory.h"
#include "page_delta_border.h"
#include "page_store_baseline.h"
#include "staged_pages_tag.h"

namespace romulus {
namespace {

constexpr napi_type_tag kBaselineTag = {0x524f4d554c555342ULL, 0x4153454c494e4531ULL};
// A baseline's page table must stay addressable: as MappedMemory's bound, 16 TiB of pages.
constexpr uint64_t kBaselinePagesMax = uint64_t{1} << 32;
// Buffers kept for later batches, and the size from which keeping one is worth it.
constexpr size_t kSparesMax = 32;
constexpr size_t kSpareBytesLeast = size_t{16} << 10;

// What the handle points to; collected with it. close() empties it.
struct BaselineHolder {
  std::unique_ptr<PageBaseline> baseline;
  // Buffers for batches to come: not handed out, or given back. Fresh ones cost a page fault for
  // each 4 KiB, which is more than encoding into them.
  std::vector<Napi::Reference<Napi::ArrayBuffer>> spares;

  void Keep(Napi::ArrayBuffer buffer) {
    if (buffer.ByteLength() < kSpareBytesLeast) return;
    if (spares.size() < kSparesMax) {
      spares.push_back(Napi::Persistent(buffer));
      return;
    }
    const auto smallest = std::min_element(spares.begin(), spares.end(), IsSmaller);
    if (BytesOf(*smallest) < buffer.ByteLength()) *smallest = Napi::Persistent(buffer);
  }

  // The smallest that is large enough, and no larger than allowed. Empty when there is none.
  Napi::ArrayBuffer TakeSpare(size_t bytes, size_t bytes_max = SIZE_MAX) {
    auto best = spares.end();
    for (auto spare = spares.begin(); spare != spares.end(); ++spare) {
      const size_t size = BytesOf(*spare);
      if (size < bytes || size > bytes_max) continue;
      if (best == spares.end() || IsSmaller(*spare, *best)) best = spare;
    }
    if (best == spares.end()) return {};
    Napi::ArrayBuffer buffer = best->Value();
    *best = std::move(spares.back());
    spares.pop_back();
    return buffer;
  }

 private:
  using Spare = Napi::Reference<Napi::ArrayBuffer>;
  static size_t BytesOf(const Spare& spare) { return spare.Value().ByteLength(); }
  static bool IsSmaller(const Spare& a, const Spare& b) { return BytesOf(a) < BytesOf(b); }
};

BaselineHolder& HolderOf(const Napi::Value& value) {
  if (!value.IsExternal() ||
      !value.As<Napi::External<BaselineHolder>>().CheckTypeTag(&kBaselineTag)) {
    throw Failure("ERR_USAGE_BASELINE", "this is not the handle of a Baseline",
                  "Pass the handle that baselineCreate gave.");
  }
  return *value.As<Napi::External<BaselineHolder>>().Data();
}

BaselineHolder& OpenHolderOf(const Napi::Value& value) {
  BaselineHolder& holder = HolderOf(value);
  if (!holder.baseline) {
    throw Failure("ERR_USAGE_CLOSED", "the baseline is closed", "Use it before close().");
  }
  return holder;
}

// Encodes straight into buffers of JavaScript: a large batch is handed out as a view of its buffer,
// a small one is copied out and the buffer used again. No two batches share a buffer, so each can
// be transferred to another thread.
class BufferSink final : public BatchSink {
 public:
  BufferSink(Napi::Env env, BaselineHolder& holder)
      : env_(env),
        holder_(holder),
        batches_(Napi::Array::New(env)),
        crcs_(Napi::Array::New(env)) {}

  uint8_t* Buffer(size_t bytes) override {
    if (buffer_.IsEmpty() || buffer_.ByteLength() < bytes) buffer_ = holder_.TakeSpare(bytes);
    if (buffer_.IsEmpty()) buffer_ = Fresh(bytes);
    return static_cast<uint8_t*>(buffer_.Data());
  }

  void Take(const BatchEncoder::Finished& batch) override {
    Napi::Value bytes;
    if (batch.bytes * 2 > buffer_.ByteLength()) {
      bytes = Napi::Uint8Array::New(env_, batch.bytes, buffer_, batch.offset);
      buffer_ = Napi::ArrayBuffer();
    } else {
      bytes = CopyOf(static_cast<uint8_t*>(buffer_.Data()) + batch.offset, batch.bytes);
    }
    batches_.Set(count_, bytes);
    crcs_.Set(count_, Napi::Number::New(env_, batch.crc));
    count_ += 1;
  }

  Napi::Object Result(const EncodeCounts& counts) {
    if (!buffer_.IsEmpty()) holder_.Keep(buffer_);
    auto result = Napi::Object::New(env_);
    const auto set = [&](const char* name, uint64_t value) {
      result.Set(name, Napi::Number::New(env_, static_cast<double>(value)));
    };
    result.Set("batches", batches_);
    result.Set("crcs", crcs_);
    set("pages", counts.pages());
    set("zero", counts.zero);
    set("unchanged", counts.unchanged);
    set("runs", counts.runs);
    set("mask", counts.mask);
    set("raw", counts.raw);
    set("rawBytes", (counts.pages() + counts.unchanged) * kPageBytes);
    set("encodedBytes", counts.encoded_bytes);
    return result;
  }

 private:
  // A Buffer of its own size is the one kind of array buffer that is not cleared first.
  Napi::ArrayBuffer Fresh(size_t bytes) {
    return Napi::Buffer<uint8_t>::New(env_, bytes).ArrayBuffer();
  }

  Napi::Value CopyOf(const uint8_t* data, size_t bytes) {
    if (bytes < kSpareBytesLeast) return Napi::Buffer<uint8_t>::Copy(env_, data, bytes);
    Napi::ArrayBuffer copy = holder_.TakeSpare(bytes, 2 * bytes);
    // Rounded up, so that the next batch, which is of much the same size, fits too.
    constexpr size_t kStep = kSpareBytesLeast;
    if (copy.IsEmpty()) copy = Fresh((bytes + kStep - 1) / kStep * kStep);
    std::memcpy(copy.Data(), data, bytes);
    return Napi::Uint8Array::New(env_, bytes, copy, 0);
  }

  Napi::Env env_;
  BaselineHolder& holder_;
  Napi::ArrayBuffer buffer_;
  Napi::Array batches_;
  Napi::Array crcs_;
  uint32_t count_ = 0;
};

EncodeMode ModeOf(const Napi::Value& value) {
  const std::string name = value.ToString().Utf8Value();
  if (name == "delta") return EncodeMode::kDelta;
  if (name == "full") return EncodeMode::kFull;
  if (name == "base") return EncodeMode::kBase;
  throw Failure("ERR_USAGE_ENCODE_MODE", "the mode '" + name + "' is unknown",
                "Use delta, full or base.");
}

// From five arguments in a row: blockId, epoch, batchBytesMax, mode, level.
EncodeOptions OptionsAt(const Napi::CallbackInfo& info, size_t first) {
  EncodeOptions options{};
  const uint64_t block_id = WholeNumber(info[first], "blockId");
  if (block_id > 0xffff) {
    throw Failure("ERR_USAGE_NUMBER", "blockId " + std::to_string(block_id) + " is above 65535",
                  "Pass the block's position in the machine's list.");
  }
  options.block_id = static_cast<uint16_t>(block_id);
  options.epoch = WholeNumber(info[first + 1], "epoch");
  options.batch_bytes_max = WholeNumber(info[first + 2], "maxBatchBytes");
  if (options.batch_bytes_max < kBatchBytesLeast || options.batch_bytes_max > kBatchBytesMost) {
    throw Failure("ERR_USAGE_BATCH_BYTES",
                  "maxBatchBytes is " + std::to_string(options.batch_bytes_max),
                  "Choose between 4120 bytes (one raw page) and 8 MiB.");
  }
  options.mode = ModeOf(info[first + 3]);
  options.kernel = &KernelArgument(info[first + 4]);
  return options;
}

Napi::Value Create(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const uint64_t pages = WholeNumber(info[0], "pages");
    if (pages == 0 || pages > kBaselinePagesMax) {
      throw Failure("ERR_USAGE_MEMORY_SIZE",
                    "a baseline of " + std::to_string(pages) + " pages is not possible",
                    "Give between 1 and 2^32 pages.");
    }
    auto holder = std::make_unique<BaselineHolder>();
    holder->baseline = std::make_unique<PageBaseline>(pages);
    auto handle = Napi::External<BaselineHolder>::New(
        info.Env(), holder.release(), [](Napi::Env, BaselineHolder* gone) { delete gone; });
    handle.TypeTag(&kBaselineTag);
    return handle;
  });
}

Napi::Value EncodeStaged(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    BaselineHolder& holder = OpenHolderOf(info[0]);
    if (!info[1].IsExternal() ||
        !info[1].As<Napi::External<StagedPages>>().CheckTypeTag(&kStagedPagesTag)) {
      throw Failure("ERR_USAGE_STAGED_PAGES", "these are not staged pages",
                    "Pass what capture returned.");
    }
    const StagedPages& staged = *info[1].As<Napi::External<StagedPages>>().Data();
    const EncodeOptions options = OptionsAt(info, 2);
    BufferSink sink(info.Env(), holder);
    return sink.Result(holder.baseline->Encode(staged, options, sink));
  });
}

Napi::Value EncodePages(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    BaselineHolder& holder = OpenHolderOf(info[0]);
    if (!info[1].IsTypedArray() ||
        info[1].As<Napi::TypedArray>().TypedArrayType() != napi_uint32_array) {
      throw Failure("ERR_USAGE_BYTES", "the page indexes are not an array of u32",
                    "Pass a Uint32Array.");
    }
    const auto indexes = info[1].As<Napi::Uint32Array>();
    const Bytes pages = BytesArgument(info[2], "the pages");
    if (pages.size != indexes.ElementLength() * kPageBytes) {
      throw Failure("ERR_USAGE_PAGE_BYTES",
                    std::to_string(indexes.ElementLength()) + " indexes came with " +
                        std::to_string(pages.size) + " bytes of pages",
                    "Pass 4096 bytes for each index.");
    }
    const EncodeOptions options = OptionsAt(info, 3);
    BufferSink sink(info.Env(), holder);
    return sink.Result(holder.baseline->Encode(
        {indexes.Data(), nullptr, pages.data, indexes.ElementLength()}, options, sink));
  });
}

Napi::Value EncodeChangedSince(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    BaselineHolder& holder = OpenHolderOf(info[0]);
    const uint64_t since = WholeNumber(info[1], "since");
    const uint64_t from_page = WholeNumber(info[2], "fromPage");
    const uint64_t page_limit = WholeNumber(info[3], "pageLimit");
    const EncodeOptions options = OptionsAt(info, 4);
    BufferSink sink(info.Env(), holder);
    uint64_t next_page = 0;
    const EncodeCounts counts = holder.baseline->EncodeChangedSince(
        since, from_page, page_limit, options, sink, &next_page);
    auto result = sink.Result(counts);
    result.Set("nextPage", next_page == holder.baseline->pages()
                               ? info.Env().Null()
                               : Napi::Number::New(info.Env(), static_cast<double>(next_page)));
    return result;
  });
}

Napi::Value CountChangedSince(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const PageBaseline& baseline = *OpenHolderOf(info[0]).baseline;
    return Napi::Number::New(
        info.Env(),
        static_cast<double>(baseline.CountChangedSince(WholeNumber(info[1], "since"))));
  });
}

Napi::Value DigestOfBaseline(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const PageBaseline& baseline = *OpenHolderOf(info[0]).baseline;
    return Napi::BigInt::New(
        info.Env(), baseline.Digest(KernelArgument(info[3]), WholeNumber(info[1], "fromPage"),
                                    WholeNumber(info[2], "pageCount")));
  });
}

Napi::Value Recycle(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    if (!info[1].IsArrayBuffer()) {
      throw Failure("ERR_USAGE_BYTES", "this is not the buffer of a batch",
                    "Pass `batch.buffer`.");
    }
    OpenHolderOf(info[0]).Keep(info[1].As<Napi::ArrayBuffer>());
    return info.Env().Undefined();
  });
}

// Frees the memory now, whatever views of it are still held.
Napi::Value Release(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    if (!info[0].IsArrayBuffer()) {
      throw Failure("ERR_USAGE_BYTES", "this is not a buffer", "Pass `bytes.buffer`.");
    }
    auto buffer = info[0].As<Napi::ArrayBuffer>();
    if (!buffer.IsDetached()) buffer.Detach();
    return info.Env().Undefined();
  });
}

Napi::Value Reset(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    OpenHolderOf(info[0]).baseline->Reset();
    return info.Env().Undefined();
  });
}

Napi::Value Close(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    BaselineHolder& holder = HolderOf(info[0]);
    holder.baseline.reset();
    holder.spares.clear();
    return info.Env().Undefined();
  });
}

Napi::Value ApplyToMemory(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const auto memory = UnwrapMemory(info[0]);
    if (!memory->writable()) {
      throw Failure("ERR_USAGE_READ_ONLY", "the image's memory is mapped for reading only",
                    "Map it writable.");
    }
    const Bytes batch = BytesArgument(info[1], "the batch");
    const PageKernel& kernel = KernelArgument(info[3]);
    const uint64_t pages = memory->bytes() / kPageBytes;
    const BatchView view = ParseBatch(kernel, batch.data, batch.size, pages);
    CheckBlock(view, info[2]);
    ApplyBatch(kernel, view, {memory->data(), pages, memory->fd(), info[4].ToBoolean()});
    return Napi::Number::New(info.Env(), view.pages);
  });
}

Napi::Value DigestOfMemory(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const auto memory = UnwrapMemory(info[0]);
    const PageKernel& kernel = KernelArgument(info[3]);
    const uint64_t bytes = memory->bytes();
    const uint64_t from = std::min(WholeNumber(info[1], "fromPage"), bytes / kPageBytes);
    const uint64_t count = std::min(WholeNumber(info[2], "pageCount"), bytes / kPageBytes - from);
    const uint64_t end = (from + count) * kPageBytes;
    uint64_t digest = 0;
    // Holes are zeros, which count nothing; reading one through the mapping would allocate it.
    for (uint64_t at = from * kPageBytes; at < end;) {
      const DataExtent extent = NextDataExtent(memory->fd(), at, end, bytes);
      const uint64_t first = std::max(at, extent.begin / kPageBytes * kPageBytes);
      const uint64_t last = std::min(end, extent.end);
      for (uint64_t page = first; page < last; page += kPageBytes) {
        digest += PageDigest(static_cast<uint32_t>(page / kPageBytes),
                             kernel.summarize(memory->data() + page));
      }
      at = std::max(extent.end, at + kPageBytes);
    }
    return Napi::BigInt::New(info.Env(), digest);
  });
}

}  // namespace

void InitPageStore(Napi::Env env, Napi::Object exports) {
  exports.Set("baselineCreate", Napi::Function::New(env, Create));
  exports.Set("baselineEncode", Napi::Function::New(env, EncodeStaged));
  exports.Set("baselineEncodePages", Napi::Function::New(env, EncodePages));
  exports.Set("baselineEncodeChangedSince", Napi::Function::New(env, EncodeChangedSince));
  exports.Set("baselineCountChangedSince", Napi::Function::New(env, CountChangedSince));
  exports.Set("baselineDigest", Napi::Function::New(env, DigestOfBaseline));
  exports.Set("baselineRecycle", Napi::Function::New(env, Recycle));
  exports.Set("baselineReset", Napi::Function::New(env, Reset));
  exports.Set("baselineClose", Napi::Function::New(env, Close));
  exports.Set("bufferRelease", Napi::Function::New(env, Release));
  exports.Set("imageApply", Napi::Function::New(env, ApplyToMemory));
  exports.Set("imageDigest", Napi::Function::New(env, DigestOfMemory));
}

}  // namespace romulus
