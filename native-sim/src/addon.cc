// Entry of the addon. Each area registers its own functions; none knows of epochs or roles.
//
// Ownership: every object handed to JavaScript owns its mappings and descriptors and gives them
// back in close() or, at the latest, when it is collected. Nothing here is static and mutable but two
// tables that are made for many threads, so the addon may be loaded in any number of worker threads:
// that of the SIGSEGV handler (mprotect_tracker.cc) and that of the taps (frame_tap_border.cc).
#include <napi.h>

#include "areas.h"

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  romulus::InitHost(env, exports);
  romulus::InitDescriptors(env, exports);
  romulus::InitMemory(env, exports);
  romulus::InitTracker(env, exports);
  romulus::InitCapture(env, exports);
  romulus::InitPageDelta(env, exports);
  romulus::InitPageStore(env, exports);
  romulus::InitSimOracle(env, exports);
  romulus::InitQmpPause(env, exports);
  romulus::InitDiskIntake(env, exports);
  romulus::InitFrameTap(env, exports);
  romulus::InitThreadFiles(env, exports);
  romulus::InitBenchSupport(env, exports);
  return exports;
}

NODE_API_MODULE(romulus_native, Init)
