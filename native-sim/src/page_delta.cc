#include "areas.h"

namespace romulus {

void InitPageDelta(Napi::Env, Napi::Object) {}

}  // namespace romulus
