#include "areas.h"

namespace romulus {

void InitCapture(Napi::Env, Napi::Object) {}

}  // namespace romulus
