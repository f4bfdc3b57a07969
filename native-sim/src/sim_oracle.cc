#include "areas.h"

namespace romulus {

void InitSimOracle(Napi::Env, Napi::Object) {}

}  // namespace romulus
