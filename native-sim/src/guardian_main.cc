// romulus-guardian: keeps a QEMU machine going when its engine can not. It takes no decision about
// roles: what it may do is written in the page that the engine shares with it (guardian_page.h).
//
//     romulus-guardian QMP_SOCKET STATE_PIPE
//                                      stdin: a socket to the engine; descriptor 3: the shared page; 4: the
//                                      pipe for device states
//
// - The engine is frozen, or a thread of it hangs: sockets on which QEMU would wait for it are shut
//   down (guardian_watch.h), and a QEMU that it holds up for a pause is let go (guardian_hold.h).
// - The engine died: the end of stdin. A machine that it had stopped runs on, also one that QEMU left so at
//   the end of its last pause. What held the machine's output is taken out if the register said that this
//   copy may run alone; else it stays, and drops every frame: that is the fence of a copy that may have
//   been succeeded.
//
// It touches neither a machine that runs nor one that somebody else paused.
//
// The engine's words on the socket are 12 bytes each, numbers little-endian:
//     u32 'w', u32 id, u32 beat word, and a descriptor beside them (SCM_RIGHTS): watch that socket
//     u32 'u', u32 id, u32 0: watch it no more
//     u32 'q', u32 0, u32 0: farewell, the engine ends orderly and needs nobody
//
// A process of its own, in native code, because it must be there already when the engine dies, cost
// nothing until then, and share no fate with it: no heap to tear down, no event loop.
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#include "fd.h"
#include "guardian_clock.h"
#include "guardian_hold.h"
#include "guardian_page.h"
#include "guardian_rescue.h"
#include "guardian_watch.h"

namespace {

using romulus::Fd;

constexpr int kPageDescriptor = 3;
constexpr int kPipeDescriptor = 4;

struct Word {
  uint32_t what;
  uint32_t id;
  uint32_t beat_word;
};
static_assert(sizeof(Word) == 12);

enum class Heard { kWord, kNothing, kEnd };

// Reads one word of the engine's, which comes whole: it was sent in one piece.
Heard Hear(Word* word, Fd* passed) {
  iovec part{word, sizeof(*word)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t got = recvmsg(STDIN_FILENO, &message, MSG_WAITALL | MSG_CMSG_CLOEXEC);
  if (got < 0) return errno == EINTR ? Heard::kNothing : Heard::kEnd;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    int fd = -1;
    memcpy(&fd, CMSG_DATA(header), sizeof(fd));
    *passed = Fd(fd);
  }
  return got == sizeof(*word) ? Heard::kWord : Heard::kEnd;
}

// Serves the engine until its farewell or death; true when it died.
bool EngineDied(romulus::GuardianWatch* watch, romulus::GuardianHold* hold) {
  int64_t hold_look_ms = romulus::MonotonicMs();
  for (;;) {
    pollfd ready{STDIN_FILENO, POLLIN, 0};
    const int64_t timeout_ms = watch->empty() ? romulus::kHoldLookMs / 2 : romulus::kLookMs;
    const int count = poll(&ready, 1, static_cast<int>(timeout_ms));
    if (count > 0) {
      Word word{};
      Fd passed;
      const Heard heard = Hear(&word, &passed);
      if (heard == Heard::kEnd) return true;
      if (heard == Heard::kWord && word.what == 'q') return false;
      if (heard == Heard::kWord && word.what == 'w')
        watch->Add(word.id, word.beat_word, std::move(passed));
      if (heard == Heard::kWord && word.what == 'u') watch->Remove(word.id);
    }
    if (romulus::MonotonicMs() - hold_look_ms >= romulus::kHoldLookMs) {
      hold_look_ms = romulus::MonotonicMs();
      if (hold->Look()) {
        std::fprintf(stderr,
                     "romulus-guardian: the engine is silent in a checkpoint; the machine runs on\n");
      }
    }
    if (watch->empty()) continue;
    const size_t cut = watch->Look(romulus::MonotonicMs());
    if (cut > 0)
      std::fprintf(stderr, "romulus-guardian: the engine is silent; %zu sockets were shut down\n",
                   cut);
  }
}

}  // namespace

int main(int argument_count, char** arguments) {
  if (argument_count != 3) {
    std::fprintf(stderr,
                 "usage: romulus-guardian QMP_SOCKET STATE_PIPE (started by romulus protect)\n");
    return 2;
  }
  // What ends a terminal or a service must not end the one that cleans up after it; the socket does.
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) signal(number, SIG_IGN);
  void* address =
      mmap(nullptr, romulus::kGuardianPageBytes, PROT_READ, MAP_SHARED, kPageDescriptor, 0);
  if (address == MAP_FAILED) {
    std::perror("romulus-guardian: descriptor 3 is no page to share");
    return 2;
  }
  const romulus::GuardianPage page(address);
  romulus::GuardianWatch watch(page);
  romulus::GuardianHold hold(page, Fd(kPipeDescriptor), arguments[2]);
  const bool has_died = EngineDied(&watch, &hold);
  // It may take leave of a machine that still stands: QEMU had not answered `cont` in time, and forgets
  // what it was sent by a client that hangs up.
  if (!has_died && !page.IsStopped()) return 0;
  if (has_died) watch.ShutDownAll();
  hold.End();
  const romulus::RescueOrder order{
      .resume = page.IsStopped(),
      .was_in_pause = has_died && page.HeldSince() != 0,
      .open_filters = has_died && page.RunsAlone() ? page.Filters() : 0,
  };
  const bool is_needed = order.resume || order.was_in_pause || order.open_filters > 0;
  const bool is_done = !is_needed || romulus::Rescue(arguments[1], order);
  if (is_done) return 0;
  std::fprintf(stderr,
               "romulus-guardian: the machine at %s may still be paused, or without its network;"
               " send it cont, and object-del for romulus-nf0 and so on\n",
               arguments[1]);
  return 1;
}
