#include "areas.h"

namespace romulus {

void InitPageStore(Napi::Env, Napi::Object) {}

}  // namespace romulus
