#include "areas.h"

namespace romulus {

void InitMemory(Napi::Env, Napi::Object) {}

}  // namespace romulus
