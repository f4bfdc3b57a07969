// From the JavaScript handle of a Tracker to the tracker behind it.
#pragma once

#include <napi.h>

#include <memory>

#include "tracker.h"

namespace romulus {

// `value` is what the TypeScript class Tracker exposes as `handle`. Throws Failure (call it inside
// AtBorder) when it is something else. In the thread of the value.
std::shared_ptr<DirtyTracker> UnwrapTracker(const Napi::Value& value);

}  // namespace romulus
