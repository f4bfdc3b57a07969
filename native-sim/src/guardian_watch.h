// The sockets through which a frozen engine would hold its machine up: QEMU waits for the reply to a
// mirrored disk write, and for room in the socket that takes the machine's frames. Each is watched by
// the beat of the thread that serves it; when that stays out, the socket is shut down, and QEMU goes on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "fd.h"
#include "guardian_page.h"

namespace romulus {

// How long a thread that is watched may be silent; src/guests/guardian-link.ts says it too.
constexpr int64_t kStallMsMax = 1000;
// How often the beats are looked at.
constexpr int64_t kLookMs = 100;
constexpr size_t kWatchedMax = 64;

class GuardianWatch {
 public:
  explicit GuardianWatch(GuardianPage page) : page_(page) {}

  // Takes the socket over. What goes beyond the bounds is not watched, and its socket not kept.
  void Add(uint32_t id, uint32_t beat_word, Fd socket);
  void Remove(uint32_t id);
  bool empty() const { return sockets_.empty(); }

  // Shuts down every socket whose thread is silent for too long; gives how many.
  size_t Look(int64_t now_ms);
  // The engine is gone: nothing is served any more.
  void ShutDownAll();

 private:
  struct Socket {
    uint32_t id;
    uint32_t beat_word;
    // When it was handed over: a thread that never beat is silent since then.
    int64_t since_ms;
    Fd fd;
  };

  GuardianPage page_;
  std::vector<Socket> sockets_;
  int64_t looked_at_ms_ = 0;
  // Nobody is judged before: the engine may have stood still with us.
  int64_t grace_until_ms_ = 0;
};

}  // namespace romulus
