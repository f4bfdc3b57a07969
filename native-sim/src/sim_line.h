// One outgoing line of the machine (net or disk): frames of [u32 big-endian length][...] into a unix
// socket that may have no reader, a slow one or a stuck one.
//
// Nothing here blocks. What the socket does not take stays in a buffer; the machine stops stepping
// while the buffer is above its bound and the line is given up when no byte left for
// kLineStallNsMax, so a stuck reader costs the machine that long at most.
// Threads: the machine's lock protects it, but for fd(), which the I/O thread, the only one to open
// and close sockets, reads freely: a descriptor closed elsewhere could be another's by the time it
// is polled.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "fd.h"

namespace romulus::sim {

constexpr size_t kLineBufferBytesMax = size_t{1} << 20;
constexpr uint64_t kLineStallNsMax = 500'000'000;

class Line {
 public:
  // Takes the socket; a line that was open before is closed. Counts start again.
  void Attach(Fd socket);
  void Detach();

  bool attached() const { return socket_.valid() && !broken_; }
  // Nobody is at the other end any more: to be detached.
  bool broken() const { return broken_; }
  int fd() const { return socket_.get(); }
  // Frames put into this socket (or its buffer) since it was connected.
  uint64_t frames() const { return frames_; }
  size_t buffered() const { return buffer_.size() - sent_; }
  bool over_bound() const { return buffered() > kLineBufferBytesMax; }
  // When the oldest buffered byte began to wait; 0 when nothing waits.
  uint64_t blocked_since_ns() const { return blocked_since_ns_; }

  // Puts the length, the prefix (may be empty) and the data; what `length` counts is the protocol's
  // affair. Dropped when nobody is attached.
  void Append(uint32_t length, const uint8_t* prefix, size_t prefix_bytes, const uint8_t* data,
              size_t data_bytes);
  // Writes what the socket takes now.
  void Flush(uint64_t now_ns);

 private:
  Fd socket_;
  bool broken_ = false;
  std::vector<uint8_t> buffer_;
  size_t sent_ = 0;  // bytes of buffer_ already written
  uint64_t frames_ = 0;
  uint64_t blocked_since_ns_ = 0;
};

}  // namespace romulus::sim
