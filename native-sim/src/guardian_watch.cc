#include "guardian_watch.h"

#include <sys/socket.h>

#include <algorithm>

#include "guardian_clock.h"

namespace romulus {

void GuardianWatch::Add(uint32_t id, uint32_t beat_word, Fd socket) {
  const bool is_known_word = beat_word >= kBeatsFirst && beat_word < kBeatsEnd;
  if (!socket.valid() || !is_known_word || sockets_.size() >= kWatchedMax) return;
  if (sockets_.empty()) looked_at_ms_ = MonotonicMs();
  sockets_.push_back({id, beat_word, MonotonicMs(), std::move(socket)});
}

void GuardianWatch::Remove(uint32_t id) {
  std::erase_if(sockets_, [id](const Socket& socket) { return socket.id == id; });
}

size_t GuardianWatch::Look(int64_t now_ms) {
  // After a standstill of ours, or of the whole host, the engine gets time to beat before it is
  // judged.
  if (now_ms - looked_at_ms_ > kStallMsMax / 2) grace_until_ms_ = now_ms + kStallMsMax;
  looked_at_ms_ = now_ms;
  if (now_ms < grace_until_ms_) return 0;
  return std::erase_if(sockets_, [&](const Socket& socket) {
    const int64_t heard_ms = std::max(page_.BeatMs(socket.beat_word), socket.since_ms);
    if (now_ms - heard_ms <= kStallMsMax) return false;
    shutdown(socket.fd.get(), SHUT_RDWR);
    return true;
  });
}

void GuardianWatch::ShutDownAll() {
  // Not only closed: another process may have inherited a copy.
  for (const Socket& socket : sockets_) shutdown(socket.fd.get(), SHUT_RDWR);
  sockets_.clear();
}

}  // namespace romulus
