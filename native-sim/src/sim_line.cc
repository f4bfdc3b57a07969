#include "sim_line.h"

#include <sys/socket.h>

#include <cerrno>

namespace romulus::sim {

void Line::Attach(Fd socket) {
  Detach();
  socket_ = std::move(socket);
  frames_ = 0;
}

void Line::Detach() {
  socket_.Reset();
  broken_ = false;
  buffer_.clear();
  sent_ = 0;
  frames_ = 0;
  blocked_since_ns_ = 0;
}

void Line::Append(uint32_t length, const uint8_t* prefix, size_t prefix_bytes, const uint8_t* data,
                  size_t data_bytes) {
  if (!attached()) return;
  const uint8_t head[4] = {static_cast<uint8_t>(length >> 24), static_cast<uint8_t>(length >> 16),
                           static_cast<uint8_t>(length >> 8), static_cast<uint8_t>(length)};
  buffer_.insert(buffer_.end(), head, head + sizeof head);
  buffer_.insert(buffer_.end(), prefix, prefix + prefix_bytes);
  buffer_.insert(buffer_.end(), data, data + data_bytes);
  frames_++;
}

void Line::Flush(uint64_t now_ns) {
  while (buffered() > 0) {
    const ssize_t sent = send(socket_.get(), buffer_.data() + sent_, buffered(),
                              MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) {
      sent_ += static_cast<size_t>(sent);
      blocked_since_ns_ = 0;
      continue;
    }
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      if (blocked_since_ns_ == 0) blocked_since_ns_ = now_ns;
      // Keeps the buffer from growing for ever at its front while the reader is merely slow.
      if (sent_ > kLineBufferBytesMax) {
        buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<ptrdiff_t>(sent_));
        sent_ = 0;
      }
      return;
    }
    broken_ = true;
    blocked_since_ns_ = 0;
    break;
  }
  buffer_.clear();
  sent_ = 0;
}

}  // namespace romulus::sim
