// Arguments from JavaScript that the page areas share. Call inside AtBorder, in the value's thread.
#pragma once

#include <napi.h>

#include <cstddef>
#include <cstdint>

#include "page_delta.h"
#include "page_delta_batch.h"

namespace romulus {

// The bytes of a Uint8Array; valid while JavaScript does not run.
struct Bytes {
  uint8_t* data;
  size_t size;
};
Bytes BytesArgument(const Napi::Value& value, const char* what);

// The form of the page functions named, the fastest when undefined. Throws Failure
// ERR_HOST_SIMD_LEVEL.
const PageKernel& KernelArgument(const Napi::Value& value);

// Throws Failure ERR_PROTOCOL_PAGE_BATCH when a block is expected and the batch is of another one.
void CheckBlock(const BatchView& view, const Napi::Value& expected);

}  // namespace romulus
