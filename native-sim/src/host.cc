#include "areas.h"

namespace romulus {

void InitHost(Napi::Env, Napi::Object) {}

}  // namespace romulus
