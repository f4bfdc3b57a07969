// Both ends of the network of a machine whose frames we hold: what its NICs say comes in here, what
// was let out goes back to QEMU. One pair of sockets for each NIC and each way, made here as pairs:
// the far ends are handed to QEMU, so there is no path, no listener and nobody else to connect.
//
// A thread of its own reads the machine's frames always, whatever anybody else does, because QEMU
// writes them in its main loop and the guest stands still while it waits (docs/QEMU.md). It never
// waits for anything but the sockets, and never for their outgoing side: writing what was let out and
// reading what comes must not depend on each other, or both sides would wait forever.
//
// Plain C++. Threads: `Write`, `Take`, `Close` belong to the owner's; `Drain` may be called from any
// thread that holds a reference, also while the owner's is busy. `wake` is called from any of them
// when there is something to take, and must only tell.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "fd.h"
#include "frame_decoder.h"
#include "frame_queue.h"
#include "mapped_memory.h"

namespace romulus {

// NICs of one machine at most; QEMU's own bound (MAX_NICS) is 8 for -net, a PCI bus has 32 slots.
constexpr size_t kTapPortsMax = 32;

struct FrameTapOptions {
  size_t ports = 1;
  size_t queue_bytes_max = 0;
  size_t queue_frames_max = 0;
  // Where the thread notes, in milliseconds of CLOCK_MONOTONIC, that it lives; may be null.
  std::shared_ptr<MappedMemory> beat;
  // Which 64-bit word of it.
  size_t beat_index = 0;
  std::function<void()> wake;
};

// Why a NIC's sockets are of no use any more.
struct BrokenPort {
  uint32_t port;
  std::string code;
  std::string text;
};

struct FrameBatch {
  std::deque<FrameChunk> chunks;
  uint32_t lost_after = 0;
  // Each is told once.
  std::vector<BrokenPort> broken;
  // Whether a frame written now goes to the kernel whole and at once.
  bool ready = true;
};

struct FrameTapCounters {
  uint64_t received = 0;
  uint64_t dropped = 0;
  size_t waiting_bytes = 0;
  size_t waiting_frames = 0;
};

class FrameTap {
 public:
  // Starts the thread.
  explicit FrameTap(FrameTapOptions options);
  FrameTap(const FrameTap&) = delete;
  FrameTap& operator=(const FrameTap&) = delete;
  ~FrameTap();

  size_t ports() const { return ports_.size(); }

  // The far ends, for QEMU: two for each NIC, what it captures and what is injected. Ours to close
  // when QEMU has them.
  std::vector<int> FarEnds() const;
  void CloseFarEnds();
  // Our own ends of the captured side: shutting them down frees a QEMU that waits for us.
  std::vector<int> CaptureEnds() const;

  // Reads until nothing is left in any socket and gives the frames captured so far, dropped ones
  // included. With the machine stopped, that is the boundary of its epoch.
  uint64_t Drain();

  // Everything that waits.
  FrameBatch Take();

  // Hands one frame, length in front, to QEMU. Only while the tap is ready; gives whether it still
  // is. A port that is broken swallows it.
  bool Write(uint32_t port, const uint8_t* frame, size_t frame_bytes);

  // Bytes that were written and that QEMU has not read yet, about.
  size_t UnreadBytes();

  FrameTapCounters Counters();

  // Ends the thread and closes the sockets; `wake` is not called after it. Idempotent.
  void Close();

 private:
  struct Port {
    Fd capture;
    Fd inject;
    Fd far_capture;
    Fd far_inject;
    FrameDecoder decoder;
    bool is_readable = true;
    bool is_writable = true;
    // The rest of a frame that did not go whole: the kernel's word on room is honest for sockets of
    // this kind, so this is the way out of what should not happen.
    std::vector<uint8_t> rest;
    bool is_blocked = false;
  };

  void ThreadMain();
  // These expect `mutex_`.
  void ReadPort(uint32_t index, size_t reads_max);
  void Break(uint32_t index, std::string code, std::string text);
  void Wake();
  // Expects `inject_mutex_`.
  bool IsReady() const;
  void Unblock(uint32_t index);

  std::vector<Port> ports_;
  std::shared_ptr<MappedMemory> beat_;
  size_t beat_index_;
  std::function<void()> wake_;
  Fd stop_;

  // Guards reading and all that is read.
  std::mutex mutex_;
  FrameQueue queue_;
  uint64_t received_ = 0;
  std::vector<BrokenPort> broken_;
  bool is_woken_ = false;
  bool is_closed_ = false;

  // Guards writing. Never held together with `mutex_` but in the order inject, then mutex.
  std::mutex inject_mutex_;
  std::atomic<bool> is_ready_{true};
  std::thread thread_;
};

}  // namespace romulus
