#include "areas.h"

namespace romulus {

void InitTracker(Napi::Env, Napi::Object) {}

}  // namespace romulus
