// The JavaScript face of the page functions, for plain buffers. Plain functions, no state: usable
// from any thread's environment; every buffer is used only during the call.
#include "page_delta.h"

#include <cstring>
#include <string>

#include "areas.h"
#include "border.h"
#include "page_delta_batch.h"
#include "page_delta_border.h"

namespace romulus {

const PageKernel& KernelArgument(const Napi::Value& value) {
  if (value.IsUndefined()) return BestPageKernel();
  const std::string name = value.ToString().Utf8Value();
  const PageKernel* kernel = FindPageKernel(name.c_str());
  if (kernel == nullptr) {
    throw Failure("ERR_HOST_SIMD_LEVEL", "this processor cannot run the page functions as " + name,
                  "Choose one of simdLevels(), or leave the choice to Romulus.");
  }
  return *kernel;
}

Bytes BytesArgument(const Napi::Value& value, const char* what) {
  if (!value.IsTypedArray() ||
      value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    throw Failure("ERR_USAGE_BYTES", std::string(what) + " is not a byte array",
                  "Pass a Uint8Array.");
  }
  auto array = value.As<Napi::Uint8Array>();
  return {array.Data(), array.ByteLength()};
}

void CheckBlock(const BatchView& view, const Napi::Value& expected) {
  if (expected.IsUndefined()) return;
  const uint64_t block_id = WholeNumber(expected, "blockId");
  if (view.block_id == block_id) return;
  throw Failure("ERR_PROTOCOL_PAGE_BATCH",
                "a page batch of block " + std::to_string(view.block_id) + " came to block " +
                    std::to_string(block_id),
                "Drop the session and synchronise anew.");
}

namespace {

Bytes PageArgument(const Napi::Value& value, const char* what) {
  const Bytes page = BytesArgument(value, what);
  if (page.size != kPageBytes) {
    throw Failure("ERR_USAGE_PAGE_BYTES",
                  std::string(what) + " has " + std::to_string(page.size) + " bytes",
                  "Pass exactly 4096 bytes.");
  }
  return page;
}

Napi::Value SimdLevels(const Napi::CallbackInfo& info) {
  size_t count = 0;
  const PageKernel* const* kernels = AvailablePageKernels(&count);
  auto names = Napi::Array::New(info.Env(), count);
  for (uint32_t at = 0; at < count; ++at) {
    names.Set(at, Napi::String::New(info.Env(), kernels[at]->name));
  }
  return names;
}

Napi::Value DigestOfPage(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const auto index = static_cast<uint32_t>(WholeNumber(info[0], "pageIndex"));
    const Bytes page = PageArgument(info[1], "the page");
    return Napi::BigInt::New(info.Env(),
                             PageDigest(index, KernelArgument(info[2]).summarize(page.data)));
  });
}

Napi::Value Crc(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const Bytes data = BytesArgument(info[0], "the data");
    const auto initial = static_cast<uint32_t>(WholeNumber(info[1], "initial"));
    return Napi::Number::New(info.Env(),
                             KernelArgument(info[2]).crc32c(initial, data.data, data.size));
  });
}

Napi::Value ApplyToBuffer(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const Bytes target = BytesArgument(info[0], "the target");
    const Bytes batch = BytesArgument(info[1], "the batch");
    const PageKernel& kernel = KernelArgument(info[3]);
    const uint64_t pages = target.size / kPageBytes;
    const BatchView view = ParseBatch(kernel, batch.data, batch.size, pages);
    CheckBlock(view, info[2]);
    ApplyBatch(kernel, view, {target.data, pages, -1, false});
    return Napi::Number::New(info.Env(), view.pages);
  });
}

// Sum over all pages of two equally long buffers, for comparison in the bench.
Napi::Value ClassicRuns(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const Bytes now = BytesArgument(info[0], "the new pages");
    const Bytes old = BytesArgument(info[1], "the old pages");
    if (now.size != old.size || now.size % kPageBytes != 0) {
      throw Failure("ERR_USAGE_PAGE_BYTES", "the new and the old pages differ in size",
                    "Pass two equally long arrays of whole pages.");
    }
    uint8_t out[kPageBytes];
    size_t bytes = 0;
    for (size_t at = 0; at < now.size; at += kPageBytes) {
      bytes += ClassicRunsBytes(now.data + at, old.data + at, out);
    }
    return Napi::Number::New(info.Env(), static_cast<double>(bytes));
  });
}

// A plain copy page by page, the floor that the bench compares with.
Napi::Value CopyPages(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const Bytes from = BytesArgument(info[0], "the source");
    const Bytes to = BytesArgument(info[1], "the target");
    if (from.size != to.size || from.size % kPageBytes != 0) {
      throw Failure("ERR_USAGE_PAGE_BYTES", "source and target differ in size",
                    "Pass two equally long arrays of whole pages.");
    }
    for (size_t at = 0; at < from.size; at += kPageBytes) {
      std::memcpy(to.data + at, from.data + at, kPageBytes);
    }
    return info.Env().Undefined();
  });
}

}  // namespace

void InitPageDelta(Napi::Env env, Napi::Object exports) {
  exports.Set("pageSimdLevels", Napi::Function::New(env, SimdLevels));
  exports.Set("pageDigest", Napi::Function::New(env, DigestOfPage));
  exports.Set("pageCrc32c", Napi::Function::New(env, Crc));
  exports.Set("pageApplyToBuffer", Napi::Function::New(env, ApplyToBuffer));
  exports.Set("pageClassicRunsBytes", Napi::Function::New(env, ClassicRuns));
  exports.Set("pageCopy", Napi::Function::New(env, CopyPages));
}

}  // namespace romulus
