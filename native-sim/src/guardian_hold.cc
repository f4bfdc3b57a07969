#include "guardian_hold.h"

#include <fcntl.h>
#include <unistd.h>

namespace romulus {

namespace {

// Holds any state that is usual.
constexpr int kOpenBytes = 1 << 20;
// For a QEMU that was about to open the pipe when its path was removed.
constexpr useconds_t kOpeningUs = 20'000;

}  // namespace

bool GuardianHold::Look() {
  const uint64_t held_since = page_.HeldSince();
  looks_ = held_since != 0 && held_since == held_since_ ? looks_ + 1 : 0;
  held_since_ = held_since;
  if (looks_ * kHoldLookMs < kHoldMsMax) return false;
  LetGo();
  return true;
}

void GuardianHold::End() {
  // The directory too: QEMU would make a file there.
  unlink(path_.c_str());
  const size_t slash = path_.rfind('/');
  if (slash != std::string::npos && slash > 0) rmdir(path_.substr(0, slash).c_str());
  LetGo();
  usleep(kOpeningUs);
  // A write of QEMU's that still waits for room fails with this: nobody reads any more.
  pipe_.Reset();
}

void GuardianHold::LetGo() const {
  // Ours alone is not enough: what is shared may have been made to wait by whoever passed it on.
  fcntl(pipe_.get(), F_SETFL, O_NONBLOCK);
  fcntl(pipe_.get(), F_SETPIPE_SZ, kOpenBytes);
  char discarded[4096];
  while (read(pipe_.get(), discarded, sizeof discarded) > 0) {
  }
}

}  // namespace romulus
