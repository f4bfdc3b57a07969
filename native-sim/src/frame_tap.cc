#include "frame_tap.h"

#include <linux/sockios.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <cerrno>

#include "failure.h"
#include "thread_without_signals.h"

namespace romulus {

namespace {

// How much may wait in a socket. Each frame is two writes of QEMU's, and the kernel counts about a
// kilobyte for each: its default would hold a hundred small frames.
constexpr int kSocketBytes = 4 << 20;
constexpr int kBeatMs = 50;
// Reads of one port in a row, so that no NIC keeps the others waiting and nobody waits long for the
// lock: about a megabyte.
constexpr size_t kReadsInARow = 8;
constexpr size_t kAllReads = SIZE_MAX;

uint64_t NowMs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000 + static_cast<uint64_t>(now.tv_nsec) / 1'000'000;
}

void MakePair(Fd* near_end, Fd* far_end) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
    throw Failure::System("ERR_NET_TAP", "no sockets for the machine's frames",
                          "Raise the limit of open files (ulimit -n).");
  }
  *near_end = Fd(pair[0]);
  *far_end = Fd(pair[1]);
  // Only who may do so gets more than net.core.wmem_max.
  for (const int fd : pair) {
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &kSocketBytes, sizeof kSocketBytes) != 0) {
      setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kSocketBytes, sizeof kSocketBytes);
    }
  }
}

// A socket of this kind has room for the longest frame when it says so: three quarters of its buffer.
bool HasRoom(int fd) {
  pollfd room{fd, POLLOUT, 0};
  return poll(&room, 1, 0) == 1;
}

}  // namespace

FrameTap::FrameTap(FrameTapOptions options)
    : ports_(options.ports),
      beat_(std::move(options.beat)),
      beat_index_(options.beat_index),
      wake_(std::move(options.wake)),
      stop_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      queue_(options.queue_bytes_max, options.queue_frames_max) {
  if (beat_ != nullptr && (beat_index_ + 1) * sizeof(uint64_t) > beat_->bytes()) {
    throw Failure("ERR_USAGE_NUMBER", "the word to beat into lies outside its memory",
                  "Pass the index of a 64-bit word of the memory.");
  }
  if (!stop_.valid()) {
    throw Failure::System("ERR_NET_TAP", "no descriptor for the machine's frames",
                          "Raise the limit of open files (ulimit -n).");
  }
  for (Port& port : ports_) {
    MakePair(&port.capture, &port.far_capture);
    MakePair(&port.inject, &port.far_inject);
  }
  thread_ = ThreadWithoutSignals([this] { ThreadMain(); });
}

FrameTap::~FrameTap() { Close(); }

std::vector<int> FrameTap::FarEnds() const {
  std::vector<int> ends;
  for (const Port& port : ports_) {
    ends.push_back(port.far_capture.get());
    ends.push_back(port.far_inject.get());
  }
  return ends;
}

void FrameTap::CloseFarEnds() {
  for (Port& port : ports_) {
    port.far_capture.Reset();
    port.far_inject.Reset();
  }
}

std::vector<int> FrameTap::CaptureEnds() const {
  std::vector<int> ends;
  for (const Port& port : ports_) ends.push_back(port.capture.get());
  return ends;
}

uint64_t FrameTap::Drain() {
  const std::lock_guard lock(mutex_);
  for (uint32_t index = 0; index < ports_.size(); ++index) ReadPort(index, kAllReads);
  return received_;
}

FrameBatch FrameTap::Take() {
  FrameBatch batch;
  const std::lock_guard lock(mutex_);
  is_woken_ = false;
  batch.chunks = queue_.TakeAll(&batch.lost_after);
  batch.broken = std::exchange(broken_, {});
  batch.ready = is_ready_.load();
  return batch;
}

bool FrameTap::Write(uint32_t index, const uint8_t* frame, size_t frame_bytes) {
  const std::lock_guard lock(inject_mutex_);
  Port& port = ports_[index];
  if (!port.is_writable || !port.inject.valid()) return is_ready_.load();
  size_t sent = 0;
  while (sent < frame_bytes && port.rest.empty()) {
    const ssize_t got =
        send(port.inject.get(), frame + sent, frame_bytes - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (got > 0) {
      sent += static_cast<size_t>(got);
    } else if (errno != EINTR) {
      // A closed one is told by the reading thread; it swallows the frame.
      if (errno != EAGAIN) return is_ready_.load();
      break;
    }
  }
  if (sent < frame_bytes) port.rest.insert(port.rest.end(), frame + sent, frame + frame_bytes);
  if (!port.rest.empty() || !HasRoom(port.inject.get())) {
    port.is_blocked = true;
    is_ready_.store(false);
    const uint64_t one = 1;
    // It can only fail when the thread is woken already.
    [[maybe_unused]] const ssize_t written = write(stop_.get(), &one, sizeof one);
  }
  return is_ready_.load();
}

size_t FrameTap::UnreadBytes() {
  const std::lock_guard lock(inject_mutex_);
  size_t bytes = 0;
  for (Port& port : ports_) {
    int unread = 0;
    if (port.is_writable && ioctl(port.inject.get(), SIOCOUTQ, &unread) == 0) {
      bytes += static_cast<size_t>(unread) + port.rest.size();
    }
  }
  return bytes;
}

FrameTapCounters FrameTap::Counters() {
  const std::lock_guard lock(mutex_);
  return {received_, queue_.dropped(), queue_.bytes(), queue_.frames()};
}

void FrameTap::Close() {
  {
    const std::lock_guard lock(mutex_);
    if (is_closed_) return;
    is_closed_ = true;
  }
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(stop_.get(), &one, sizeof one);
  thread_.join();
  const std::scoped_lock lock(inject_mutex_, mutex_);
  for (Port& port : ports_) {
    port.is_readable = false;
    port.is_writable = false;
    port.capture.Reset();
    port.inject.Reset();
  }
  CloseFarEnds();
  stop_.Reset();
  beat_.reset();
}

void FrameTap::ThreadMain() {
  pthread_setname_np(pthread_self(), "frames");
  std::vector<pollfd> polled;
  for (;;) {
    if (beat_ != nullptr) {
      __atomic_store_n(reinterpret_cast<uint64_t*>(beat_->data()) + beat_index_, NowMs(),
                       __ATOMIC_RELAXED);
    }
    polled.clear();
    polled.push_back({stop_.get(), POLLIN, 0});
    {
      const std::scoped_lock lock(inject_mutex_, mutex_);
      if (is_closed_) return;
      for (const Port& port : ports_) {
        // A negative descriptor is passed over.
        polled.push_back({port.is_readable ? port.capture.get() : -1, POLLIN, 0});
        const short wanted = port.is_blocked ? POLLOUT : 0;
        polled.push_back({port.is_writable ? port.inject.get() : -1, wanted, 0});
      }
    }
    if (poll(polled.data(), polled.size(), kBeatMs) <= 0) continue;
    if (polled[0].revents != 0) {
      uint64_t count = 0;
      [[maybe_unused]] const ssize_t got = read(stop_.get(), &count, sizeof count);
    }
    for (uint32_t index = 0; index < ports_.size(); ++index) {
      if (polled[1 + 2 * index].revents != 0) {
        const std::lock_guard lock(mutex_);
        ReadPort(index, kReadsInARow);
      }
      if (polled[2 + 2 * index].revents != 0) Unblock(index);
    }
  }
}

void FrameTap::ReadPort(uint32_t index, size_t reads_max) {
  Port& port = ports_[index];
  for (size_t reads = 0; reads < reads_max && port.is_readable; ++reads) {
    const ssize_t got =
        recv(port.capture.get(), port.decoder.room(), port.decoder.room_bytes(), MSG_DONTWAIT);
    if (got < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN) return;
      Break(index, "ERR_NET_TAP_LOST", std::strerror(errno));
      return;
    }
    if (got == 0) {
      Break(index, "ERR_NET_TAP_LOST", "QEMU closed it");
      return;
    }
    const bool is_whole = port.decoder.Take(
        static_cast<size_t>(got), [&](const uint8_t* frame, size_t frame_bytes) {
          ++received_;
          queue_.Push(index, frame, frame_bytes);
        });
    if (!queue_.empty()) Wake();
    if (!is_whole) {
      Break(index, "ERR_LIMIT_NET_FRAME",
            "a frame announces " + std::to_string(port.decoder.bad_length()) + " bytes");
    }
  }
}

void FrameTap::Break(uint32_t index, std::string code, std::string text) {
  Port& port = ports_[index];
  port.is_readable = false;
  // QEMU must not wait for a reader that will not come back.
  shutdown(port.capture.get(), SHUT_RDWR);
  broken_.push_back({index, std::move(code), std::move(text)});
  Wake();
}

void FrameTap::Wake() {
  if (is_woken_ || is_closed_) return;
  is_woken_ = true;
  wake_();
}

bool FrameTap::IsReady() const {
  return std::none_of(ports_.begin(), ports_.end(),
                      [](const Port& port) { return port.is_blocked && port.is_writable; });
}

void FrameTap::Unblock(uint32_t index) {
  const std::scoped_lock lock(inject_mutex_, mutex_);
  Port& port = ports_[index];
  pollfd now{port.inject.get(), POLLOUT, 0};
  poll(&now, 1, 0);
  if ((now.revents & (POLLHUP | POLLERR)) != 0) {
    port.is_writable = false;
    port.rest.clear();
    broken_.push_back({index, "ERR_NET_TAP_LOST", "QEMU closed the way back"});
  } else if ((now.revents & POLLOUT) == 0) {
    return;
  }
  while (!port.rest.empty()) {
    const ssize_t got =
        send(port.inject.get(), port.rest.data(), port.rest.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (got <= 0) return;
    port.rest.erase(port.rest.begin(), port.rest.begin() + got);
  }
  port.is_blocked = false;
  is_ready_.store(IsReady());
  Wake();
}

}  // namespace romulus
