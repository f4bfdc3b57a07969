// The pause of a QEMU machine: stop, device state, capture, cont, as one conversation on the QMP
// socket. Native because every hop through an event loop inside a pause would be paid by the guest.
//
// `stop` and `xen-save-devices-state` leave in one write, so that QEMU saves the state while the
// caller copies pages; what that spares is in docs/BENCHMARKS.md. `cont` follows once the pages are
// copied, mostly before the state is saved, so that QEMU need not be told a third time. The socket stays the property of
// the QMP client: everything read here that is not an answer to us is handed on to it, in order and
// whole, also when it begins or ends in the middle of a line.
//
// Whatever happens between `stop` and the end, `cont` is sent, unless the machine did not run
// before: who paused it wants it paused. QEMU tells: a `stop` that stops a running machine is
// preceded by the event STOP (do_vm_stop in softmmu/cpus.c), one that finds it stopped is not.
//
// Plain C++; one conversation at a time, in one thread, while nobody else reads the socket.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "mapped_memory.h"

namespace romulus {

// How a pause ended. The numbers are part of the contract with src/native/qmp-pause.ts.
enum class PauseOutcome {
  kDone = 0,
  // It did not run when we came, and was left as it was.
  kNotRunning = 1,
  // QEMU refused `stop`; see `refusal`.
  kStopRefused = 2,
  // The machine ran on, but without its device state; see `refusal`.
  kSaveRefused = 3,
  // An answer did not come in time; `cont` was sent all the same.
  kTimeout = 4,
  // The socket ended.
  kLost = 5,
  // QEMU refused `cont`; see `refusal`.
  kContRefused = 6,
};

// Nanoseconds since the request was written.
struct PauseTimes {
  uint64_t stopped_ns = 0;
  uint64_t captured_ns = 0;
  uint64_t saved_ns = 0;
  uint64_t resumed_ns = 0;
};

struct PauseRequest {
  // Both lines, `stop` first.
  std::string_view stop_and_save;
  std::string_view cont;
  // The ids in those lines; they appear in no event.
  std::string_view stop_id;
  std::string_view save_id;
  std::string_view cont_id;
  int timeout_ms = 0;
  // How long `cont` may take to be answered after something went wrong.
  int rescue_ms = 0;
};

class QmpPause {
 public:
  // `in_pause` is a mapping whose first word is 1 for as long as a pause lasts: a guardian reads it
  // when this process has died. May be null.
  QmpPause(int fd, std::shared_ptr<MappedMemory> in_pause);

  // Throws what `while_stopped` throws, after the machine runs again.
  PauseOutcome Take(const PauseRequest& request, const std::function<void()>& while_stopped);

  const PauseTimes& times() const { return times_; }
  // QEMU's answer, as it came, when it refused something.
  const std::string& refusal() const { return refusal_; }
  // What was read and is not ours; leaves it empty.
  std::string TakeForeign();

 private:
  enum class Wait { kAnswered, kRefused, kTimeout, kLost };

  bool Write(std::string_view bytes, int timeout_ms);
  Wait WaitFor(std::string_view id, int timeout_ms);
  // What recv(2) says; what came is at the end of the buffer.
  ssize_t Read();
  bool NextLine(std::string_view* line);
  // Takes the line out of what is handed on.
  void Claim(std::string_view line);
  uint64_t SinceNs() const;
  PauseOutcome Rescue(const PauseRequest& request, PauseOutcome outcome);
  PauseOutcome Resumed(const PauseRequest& request, PauseOutcome outcome);
  void Mark(uint32_t value);

  int fd_;
  std::shared_ptr<MappedMemory> in_pause_;
  // Read and not yet handed on; `scanned_` is where the first line begins that was not looked at.
  std::string buffer_;
  size_t scanned_ = 0;
  bool saw_stop_event_ = false;
  std::string refusal_;
  PauseTimes times_;
  uint64_t begun_ns_ = 0;
};

}  // namespace romulus
