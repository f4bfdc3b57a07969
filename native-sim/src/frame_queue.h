// Frames on their way from the reader of a tap to JavaScript, in one order over all NICs, bounded in
// bytes and number. What finds no room is dropped and counted in its place, as a NIC with a full ring
// would: who takes the frames can number them as the machine did. Not for several threads at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

namespace romulus {

// What is known of a frame beside its bytes.
struct FrameNote {
  uint32_t port;
  // Frames dropped since the one before it.
  uint32_t lost_before;
};

// Whole frames, one behind the other, each with its length in front.
struct FrameChunk {
  std::vector<uint8_t> bytes;
  std::vector<FrameNote> notes;
};

class FrameQueue {
 public:
  FrameQueue(size_t bytes_max, size_t frames_max)
      : bytes_max_(bytes_max), frames_max_(frames_max) {}

  void Push(uint32_t port, const uint8_t* frame, size_t frame_bytes);

  // Everything that waits, leaving it empty; `*lost_after` counts what was dropped behind the last.
  std::deque<FrameChunk> TakeAll(uint32_t* lost_after);

  bool empty() const { return frames_ == 0 && lost_ == 0; }
  size_t bytes() const { return bytes_; }
  size_t frames() const { return frames_; }
  // Frames ever dropped.
  uint64_t dropped() const { return dropped_; }

 private:
  size_t bytes_max_;
  size_t frames_max_;
  std::deque<FrameChunk> chunks_;
  size_t bytes_ = 0;
  size_t frames_ = 0;
  uint32_t lost_ = 0;
  uint64_t dropped_ = 0;
};

}  // namespace romulus
