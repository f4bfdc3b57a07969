// The pipe that QEMU writes device states into, and that holds QEMU up until we are done.
//
// A save that QEMU is given while its machine runs stops the machine, writes the state, and resumes
// it (qmp_xen_save_devices_state in migration/savevm.c). So one command is a whole pause, and what
// is left to us is to know when the machine stands, and to keep it standing while pages are copied:
//
// - QEMU opens the pipe when the machine stands and its disks are drained; inotify tells.
// - Before, the pipe was filled with bytes of ours but for some room, so QEMU can save, but not end.
// - Taking these bytes out (OpenGate) lets it end, and the machine runs on without a further word.
//
// Should this process die, nothing holds QEMU: a pipe that nobody reads fails its write, and the
// machine runs on. QEMU would only wait for ever if it opened a pipe that nobody has open any more;
// against that the guardian inherits the descriptor, and what both left is let go by the next
// engine (ReleaseAbandoned).
//
// Plain C++; one thread at a time.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "fd.h"

namespace romulus {

// QEMU keeps up to so much of a state to itself until it is whole (IO_BUF_SIZE in
// migration/qemu-file.c).
constexpr size_t kSaveBufferBytes = 32768;
// By so much a state may shrink from one pause to the next and still not fit behind the gate.
constexpr size_t kShrinkBytesMax = 16384;

class StatePipe {
 public:
  // Makes the pipe in a directory that is there, for the user that QEMU runs as.
  StatePipe(const std::string& directory, uid_t uid, gid_t gid);
  StatePipe(const StatePipe&) = delete;
  StatePipe& operator=(const StatePipe&) = delete;
  // Removes the pipe, and lets a QEMU go that is just about to use it; the directory stays.
  ~StatePipe();

  const std::string& path() const { return path_; }
  // For the guardian.
  int descriptor() const { return pipe_.get(); }
  // Readable when `Noticed` has something to say.
  int watch() const { return watch_.get(); }

  // Empties the pipe and leaves room for all but the last of a state of so many bytes.
  void CloseGate(size_t state_bytes);

  struct Notice {
    bool opened = false;
    bool closed = false;
  };
  // What a writer has done since the last time.
  Notice Noticed();

  // Lets QEMU end. False when somebody else had done so.
  bool OpenGate();
  // Whether the open gate holds a state of the size foretold, and more: QEMU needs no reader then.
  // Not when no size was foretold.
  bool is_wide() const { return is_wide_; }

  // Appends what has come to the state, up to a bound; false when nothing had.
  bool Read(std::string* state, size_t bytes_max) const;

 private:
  std::string path_;
  // Keeps others from taking the directory for one that nobody uses.
  Fd directory_lock_;
  Fd pipe_;
  Fd watch_;
  size_t state_bytes_ = 0;
  size_t gate_bytes_ = 0;
  bool is_wide_ = false;
};

// Lets go of every QEMU that waits for an engine that died together with its guardian, and removes
// what they left: directories there whose names begin so and that no living process has locked.
// Returns how many.
size_t ReleaseAbandoned(const std::string& parent, const std::string& prefix);

}  // namespace romulus
