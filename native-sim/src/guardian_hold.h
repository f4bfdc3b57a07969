// The pipe that holds QEMU up during a pause (state_pipe.h), for an engine that cannot open it any
// more.
#pragma once

#include <cstdint>
#include <string>

#include "fd.h"
#include "guardian_page.h"

namespace romulus {

// How long one pause may hold QEMU up; as long as an engine waits for QEMU.
constexpr int64_t kHoldMsMax = 10'000;

class GuardianHold {
 public:
  GuardianHold(GuardianPage page, Fd pipe, std::string path)
      : page_(page), pipe_(std::move(pipe)), path_(std::move(path)) {}

  // To be called about every `kHoldLookMs`. Lets QEMU go when one pause holds it for too long, and
  // is true then; the engine, should it wake, sees that the pause was none.
  bool Look();
  // The engine is gone: lets QEMU go, also one that is about to open the pipe, and removes pipe and
  // directory. A save that comes later fails, and its machine runs on.
  void End();

 private:
  void LetGo() const;

  GuardianPage page_;
  Fd pipe_;
  std::string path_;
  uint64_t held_since_ = 0;
  // Time is counted in looks: a standstill of the whole host is not the engine's.
  int64_t looks_ = 0;
};

constexpr int64_t kHoldLookMs = 1000;

}  // namespace romulus
