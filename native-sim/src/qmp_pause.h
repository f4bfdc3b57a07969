// The pause of a QEMU machine, as one conversation on the QMP socket and the pipe for device
// states. Native because every hop through an event loop inside a pause would be paid by the guest.
//
// One command is sent, `xen-save-devices-state`, while the machine runs: QEMU reads commands byte
// by byte (5 us each), and of a machine that runs it stops it, saves, and resumes it by itself.
// Where in this QEMU is, and how it is held up while pages are copied, is StatePipe's (docs/adr/0014).
// The socket stays the property of the QMP client: everything read here that is not an answer to us
// is handed on to it, in order and whole, also when it begins or ends in the middle of a line.
//
// Whatever fails meanwhile, the gate is opened and the machine runs on, unless it did not run
// before: who paused it wants it paused, and QEMU's save leaves it so. QEMU tells: of a machine
// that it stops it says so by the event STOP (do_vm_stop in softmmu/cpus.c), of one that stands it
// does not. Where it does not resume the machine, it is asked first: only a machine in state
// `save-vm` was stopped by our save.
//
// After kTimeout the answer is still owed: nothing may be taken until the client has had an answer
// to a later command of its own.
//
// Plain C++; one conversation at a time, in one thread, while nobody else reads the socket.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "mapped_memory.h"
#include "state_pipe.h"
#include "step_aside.h"

namespace romulus {

// How a pause ended. The numbers are part of the contract with src/native/qmp-pause.ts.
enum class PauseOutcome {
  kDone = 0,
  // It did not run when we came, and was left as it was.
  kNotRunning = 1,
  // The machine ran on, but without its device state; see `refusal`.
  kSaveRefused = 2,
  // QEMU did not answer in time; it is no longer held up by us.
  kTimeout = 3,
  // The socket ended.
  kLost = 4,
  // It did not run on by itself and refused `cont`; see `refusal`.
  kContRefused = 5,
  // It ran on before we were done: this process stood still for too long, or the state has shrunk.
  kRanOn = 6,
};

// Nanoseconds since the request was written.
struct PauseTimes {
  // By QEMU's own stamps on its events STOP and RESUME.
  uint64_t stopped_ns = 0;
  uint64_t resumed_ns = 0;
  // It stands, and its disks are drained.
  uint64_t held_ns = 0;
  uint64_t captured_ns = 0;
  uint64_t saved_ns = 0;
};

struct PauseRequest {
  std::string_view save;
  std::string_view status;
  std::string_view cont;
  // The ids in those lines, with their quotes; they appear in no event.
  std::string_view save_id;
  std::string_view status_id;
  std::string_view cont_id;
  size_t state_bytes_max = 0;
  int timeout_ms = 0;
  // How long QEMU may take to be done after something went wrong.
  int rescue_ms = 0;
};

class QmpPause {
 public:
  // `page` is what a guardian reads when this process has died or is frozen (guardian_page.h). May
  // be null. `process_id`: whose first thread saves; 0 when that is not known.
  QmpPause(int fd, std::shared_ptr<StatePipe> pipe, std::shared_ptr<MappedMemory> page,
           pid_t process_id);

  // `meanwhile` is called when the machine has all it needs to run on, and holds nothing up. Throws
  // what the two throw, after the machine runs again.
  PauseOutcome Take(const PauseRequest& request, const std::function<void()>& while_stopped,
                    const std::function<void()>& meanwhile);

  // No pause can be taken after it.
  void Close();

  const PauseTimes& times() const { return times_; }
  // The device state, after kDone.
  const std::string& state() const { return state_; }
  // QEMU's answer, as it came, when it refused something.
  const std::string& refusal() const { return refusal_; }
  // What was read and is not ours; leaves it empty.
  std::string TakeForeign();

 private:
  enum class Wait { kAnswered, kRefused, kTimeout, kLost };
  enum class Hold { kHeld, kAnswered, kTimeout, kLost };

  bool Write(std::string_view bytes, int timeout_ms);
  Hold WaitUntilHeld(const PauseRequest& request, StepAside& aside, Wait* answer);
  // For the answer to the save. Takes what QEMU has to say, on both ways.
  Wait WaitForSave(const PauseRequest& request, int timeout_ms);
  Wait WaitFor(std::string_view id, int timeout_ms);
  // Reads lines up to the answer with that id.
  bool FindAnswer(std::string_view id, Wait* answer);
  // Everything that has come; false when nothing more can.
  bool ReadAll();
  // Whether the machine stands without our doing. Nothing was asked yet.
  bool StandsAlready();
  PauseOutcome Finish(const PauseRequest& request, PauseOutcome outcome, int timeout_ms);
  PauseOutcome Resume(const PauseRequest& request, PauseOutcome outcome);
  // What recv(2) says; what came is at the end of the buffer.
  ssize_t Read();
  bool NextLine(std::string_view* line);
  // Takes the line out of what is handed on.
  void Claim(std::string_view line);
  void NoteEvent(std::string_view line);
  uint64_t SinceNs() const;
  void MarkStopped(uint32_t value);
  // Set from before QEMU is asked until it has answered; each new value gives it time anew.
  void MarkHeld(bool is_held);

  int fd_;
  std::shared_ptr<StatePipe> pipe_;
  std::shared_ptr<MappedMemory> page_;
  ThreadPlace saver_;
  // Read and not yet handed on; `scanned_` is where the first line begins that was not looked at.
  std::string buffer_;
  size_t scanned_ = 0;
  bool is_stopped_ = false;
  bool is_resumed_ = false;
  bool is_held_ = false;
  bool is_answer_owed_ = false;
  // The answer that came last.
  std::string answer_;
  std::string state_;
  size_t usual_state_bytes_ = 0;
  std::string refusal_;
  PauseTimes times_;
  uint64_t begun_ns_ = 0;
};

}  // namespace romulus
