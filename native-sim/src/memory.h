// For other areas of the addon: from the JavaScript handle of a Memory to the mapping behind it.
#pragma once

#include <napi.h>

#include <memory>

#include "mapped_memory.h"

namespace romulus {

// `value` is what the TypeScript class Memory exposes as `handle`. The result keeps the mapping
// alive for as long as it is held, whatever JavaScript closes. Throws Failure (call it inside
// AtBorder) when `value` is something else or the Memory is closed. In the thread of the value.
std::shared_ptr<MappedMemory> UnwrapMemory(const Napi::Value& value);

}  // namespace romulus
