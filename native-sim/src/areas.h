// The areas of the addon, one Init each, called once per environment (main thread or worker).
#pragma once

#include <napi.h>

namespace romulus {

void InitHost(Napi::Env env, Napi::Object exports);
void InitDescriptors(Napi::Env env, Napi::Object exports);
void InitMemory(Napi::Env env, Napi::Object exports);
void InitTracker(Napi::Env env, Napi::Object exports);
void InitCapture(Napi::Env env, Napi::Object exports);
void InitPageDelta(Napi::Env env, Napi::Object exports);
void InitPageStore(Napi::Env env, Napi::Object exports);
void InitSimOracle(Napi::Env env, Napi::Object exports);
void InitQmpPause(Napi::Env env, Napi::Object exports);
void InitDiskIntake(Napi::Env env, Napi::Object exports);
void InitFrameTap(Napi::Env env, Napi::Object exports);
void InitThreadFiles(Napi::Env env, Napi::Object exports);
void InitBenchSupport(Napi::Env env, Napi::Object exports);

}  // namespace romulus
