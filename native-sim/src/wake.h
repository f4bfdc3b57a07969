// Wakes a JavaScript thread from any other: calls a function of its, once for each call or for several.
#pragma once

#include <napi.h>

namespace romulus {

// What a wake's function throws is uncaught, as of any event; that it cannot run, because its thread is
// being ended, is nobody's error. Left to node-addon-api, the first is a warning only.
inline void CallWoken(Napi::Env env, Napi::Function woken, void* /* context */, void* /* data */) {
  if (env == nullptr || woken.IsEmpty()) return;
  if (napi_call_function(env, env.Undefined(), woken, 0, nullptr, nullptr) == napi_ok) return;
  bool is_thrown = false;
  napi_value thrown = nullptr;
  if (napi_is_exception_pending(env, &is_thrown) != napi_ok || !is_thrown) return;
  if (napi_get_and_clear_last_exception(env, &thrown) == napi_ok) napi_fatal_exception(env, thrown);
}

using Wake = Napi::TypedThreadSafeFunction<void, void, CallWoken>;

// A wake alone keeps no process alive. `name` is for diagnostics.
inline Wake MakeWake(Napi::Env env, const Napi::Value& woken, const char* name) {
  Wake wake = Wake::New(env, woken.As<Napi::Function>(), name, 0, 1);
  wake.Unref(env);
  return wake;
}

}  // namespace romulus
