// Cuts a byte stream into frames: `[u32 big-endian length][payload]`, as QEMU's filter-redirector
// writes them. The bytes are read straight into the decoder's buffer; a frame is handed on as a view
// of it, with its length in front, and never looked into.
//
// Whatever the stream holds, nothing outside the buffer is touched: a length above the bound breaks
// the decoder for good, because the stream cannot be followed after it. One thread at a time.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

namespace romulus {

// QEMU's NET_BUFSIZE (include/net/net.h): what its own reader accepts.
constexpr size_t kFramePayloadBytesMax = 4096 + 65536;
constexpr size_t kFrameHeaderBytes = 4;
constexpr size_t kFrameBytesMax = kFrameHeaderBytes + kFramePayloadBytesMax;

class FrameDecoder {
 public:
  // Room that is always left for a read, beside the longest beginning of a frame.
  static constexpr size_t kReadBytes = size_t{128} << 10;

  FrameDecoder() : buffer_(new uint8_t[kBufferBytes]) {}

  // Where the next bytes of the stream are to be put, at most `room_bytes()` of them.
  uint8_t* room() { return buffer_.get() + held_; }
  size_t room_bytes() const { return kBufferBytes - held_; }

  // `bytes` were put there. Calls `sink(frame, frame_bytes)` for every frame that is whole by now, in
  // order. False when the stream broke the format, now or before.
  template <typename Sink>
  bool Take(size_t bytes, Sink&& sink) {
    assert(bytes <= room_bytes());
    if (broken_) return false;
    held_ += bytes;
    size_t at = 0;
    while (held_ - at >= kFrameHeaderBytes) {
      const size_t payload_bytes = LengthAt(buffer_.get() + at);
      if (payload_bytes > kFramePayloadBytesMax) {
        broken_ = true;
        bad_length_ = payload_bytes;
        return false;
      }
      const size_t frame_bytes = kFrameHeaderBytes + payload_bytes;
      if (held_ - at < frame_bytes) break;
      sink(static_cast<const uint8_t*>(buffer_.get() + at), frame_bytes);
      at += frame_bytes;
    }
    held_ -= at;
    if (at > 0 && held_ > 0) std::memmove(buffer_.get(), buffer_.get() + at, held_);
    return true;
  }

  // The length that broke it.
  size_t bad_length() const { return bad_length_; }
  // Bytes of a frame that is not whole yet.
  size_t held() const { return held_; }

 private:
  // A frame that is not whole is shorter than the longest one, so a read always finds room.
  static constexpr size_t kBufferBytes = kReadBytes + kFrameBytesMax;

  static size_t LengthAt(const uint8_t* header) {
    return size_t{header[0]} << 24 | size_t{header[1]} << 16 | size_t{header[2]} << 8 | header[3];
  }

  std::unique_ptr<uint8_t[]> buffer_;
  size_t held_ = 0;
  size_t bad_length_ = 0;
  bool broken_ = false;
};

}  // namespace romulus
