#include "disk_intake.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "failure.h"
#include "guardian_clock.h"
#include "priority.h"
#include "thread_without_signals.h"

namespace romulus {

namespace {

constexpr int kBeatMs = 50;
// Reads of one connection in a row, so that no disk keeps the others waiting.
constexpr size_t kReadsInARow = 16;

void Store(int64_t* word, uint64_t value) {
  __atomic_store_n(word, static_cast<int64_t>(value), __ATOMIC_SEQ_CST);
}

}  // namespace

// One client of one disk; belongs to the thread.
struct DiskIntake::Connection : NbdSink {
  Connection(DiskIntake* to, uint32_t of_disk, Fd fd)
      : intake(to),
        disk(of_disk),
        socket(std::move(fd)),
        requests(to->disks_bytes_[of_disk], &to->memory_) {}

  bool Write(std::vector<WritePiece>& pieces) override { return intake->Keep(disk, pieces); }

  DiskIntake* intake;
  uint32_t disk;
  // Not valid when it has ended.
  Fd socket;
  NbdRequests requests;
};

DiskIntake::DiskIntake(DiskIntakeOptions options)
    : disks_bytes_(std::move(options.disks_bytes)),
      words_(std::move(options.words)),
      wake_(std::move(options.wake)),
      kick_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      queue_(disks_bytes_, options.limits,
             static_cast<uint64_t>(__atomic_load_n(words_.received, __ATOMIC_SEQ_CST))) {
  if (!kick_.valid()) {
    throw Failure::System("ERR_HOST_DESCRIPTOR", "no descriptor for the disks' thread",
                          "Raise the limit of open files (ulimit -n).");
  }
  TellCounts();
  thread_ = ThreadWithoutSignals([this] { ThreadMain(); });
}

DiskIntake::~DiskIntake() { Close(); }

void DiskIntake::Adopt(OpenedDisk opened) {
  {
    const std::lock_guard guard(lock_);
    if (is_closed_) return;
    opened_.push_back(std::move(opened));
  }
  Kick();
}

void DiskIntake::WakeAbove(uint64_t waiting_bytes) {
  const std::lock_guard guard(lock_);
  wake_above_bytes_ = waiting_bytes;
  if (queue_.waiting_bytes() > wake_above_bytes_) Wake();
}

std::vector<GoneDisk> DiskIntake::TakeGone() {
  const std::lock_guard guard(lock_);
  is_woken_ = false;
  return std::exchange(gone_, {});
}

std::vector<QueuedPiece> DiskIntake::TakeSome(uint64_t data_bytes) {
  const std::lock_guard guard(lock_);
  auto taken = queue_.TakeSome(data_bytes);
  TellCounts();
  return taken;
}

std::vector<QueuedPiece> DiskIntake::TakeThrough(uint64_t count) {
  const std::lock_guard guard(lock_);
  if (count < queue_.taken() || count > queue_.received()) {
    throw Failure("ERR_USAGE_NUMBER",
                  "there are disk writes from " + std::to_string(queue_.taken()) + " to " +
                      std::to_string(queue_.received()) + ", not up to " + std::to_string(count),
                  "Pass a count of writes that were received and not yet taken.");
  }
  auto taken = queue_.TakeThrough(count);
  TellCounts();
  return taken;
}

void DiskIntake::Rest() {
  std::deque<QueuedPiece> dropped;
  const std::lock_guard guard(lock_);
  dropped = queue_.Rest();
  TellCounts();
}

std::vector<std::vector<uint8_t>> DiskIntake::Resume() {
  const std::lock_guard guard(lock_);
  return queue_.Resume();
}

void DiskIntake::Free(std::vector<QueuedPiece> pieces) {
  for (QueuedPiece& queued : pieces) memory_.Free(std::move(queued.piece));
}

void DiskIntake::Close() {
  {
    const std::lock_guard guard(lock_);
    if (is_closed_) return;
    is_closed_ = true;
  }
  Kick();
  thread_.join();
  const std::lock_guard guard(lock_);
  opened_.clear();
  queue_.Drop();
  TellCounts();
}

void DiskIntake::ThreadMain() {
  pthread_setname_np(pthread_self(), "disks");
  // It never computes for long, and the guest waits for it.
  const Urgent urgent;
  std::vector<std::unique_ptr<Connection>> connections;
  std::vector<pollfd> polled;
  while (AdoptNew(&connections)) {
    Beat(MonotonicMs());
    for (const auto& connection : connections) {
      if (is_overrun_) End(*connection, "ERR_LIMIT_DISK_BACKLOG", "too much waits to be sent");
    }
    std::erase_if(connections, [](const auto& connection) { return !connection->socket.valid(); });
    polled.assign(1, {kick_.get(), POLLIN, 0});
    for (const auto& connection : connections) {
      const bool is_unread = !connection->requests.replies().empty();
      const short wanted = is_unread ? POLLIN | POLLOUT : POLLIN;
      polled.push_back({connection->socket.get(), wanted, 0});
    }
    if (poll(polled.data(), polled.size(), kBeatMs) <= 0) continue;
    if (polled[0].revents != 0) {
      uint64_t count = 0;
      [[maybe_unused]] const ssize_t got = read(kick_.get(), &count, sizeof count);
    }
    for (size_t index = 0; index < connections.size(); ++index) {
      if (polled[1 + index].revents != 0) Serve(*connections[index]);
    }
  }
  // Not only closed: who watches has copies.
  for (const auto& connection : connections) shutdown(connection->socket.get(), SHUT_RDWR);
  Beat(0);
}

void DiskIntake::Beat(int64_t now_ms) {
  for (int64_t* const beat : words_.beats) Store(beat, static_cast<uint64_t>(now_ms));
}

bool DiskIntake::AdoptNew(std::vector<std::unique_ptr<Connection>>* connections) {
  std::vector<OpenedDisk> opened;
  {
    const std::lock_guard guard(lock_);
    if (is_closed_) return false;
    opened = std::exchange(opened_, {});
  }
  for (OpenedDisk& one : opened) {
    auto connection = std::make_unique<Connection>(this, one.disk, std::move(one.socket));
    connection->requests.replies() = std::move(one.words);
    if (connections->size() >= kDiskConnectionsMax) {
      End(*connection, "ERR_DISK_LOST", "too many disks are open");
      continue;
    }
    Begin(*connection, one.early);
    connections->push_back(std::move(connection));
  }
  return true;
}

void DiskIntake::Begin(Connection& connection, const std::vector<uint8_t>& early) {
  size_t at = 0;
  while (at < early.size() && connection.socket.valid()) {
    std::array<iovec, 2> parts;
    connection.requests.Room(&parts);
    const size_t bytes = std::min(parts[0].iov_len, early.size() - at);
    std::memcpy(parts[0].iov_base, early.data() + at, bytes);
    at += bytes;
    if (!Understand(connection, bytes)) return;
  }
  Flush(connection);
}

void DiskIntake::Serve(Connection& connection) {
  for (size_t reads = 0; reads < kReadsInARow && connection.socket.valid(); ++reads) {
    std::array<iovec, 2> parts;
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = connection.requests.Room(&parts);
    const ssize_t got = recvmsg(connection.socket.get(), &message, MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno != EAGAIN) {
      return End(connection, "ERR_DISK_LOST", std::strerror(errno));
    }
    if (got == 0) return End(connection, "ERR_DISK_LOST", "it closed the connection");
    if (got > 0 && !Understand(connection, static_cast<size_t>(got))) return;
    Flush(connection);
    // Between requests there is rarely more, and it is cheaper to be told.
    if (got < 0 || !connection.requests.is_within()) return;
  }
}

bool DiskIntake::Understand(Connection& connection, size_t bytes) {
  switch (connection.requests.Take(bytes, connection)) {
    case NbdRequests::State::kOpen:
      return true;
    case NbdRequests::State::kEnded:
      Flush(connection);
      End(connection, "ERR_DISK_LOST", "it took leave");
      return false;
    case NbdRequests::State::kBroken:
      // What was taken before the nonsense is kept; its client will not be told.
      End(connection, "ERR_PROTOCOL_NBD", connection.requests.breach());
      return false;
    case NbdRequests::State::kRefused:
      is_overrun_ = true;
      return false;
  }
  return false;
}

void DiskIntake::Flush(Connection& connection) {
  std::vector<uint8_t>& replies = connection.requests.replies();
  if (replies.empty() || !connection.socket.valid()) return;
  const ssize_t sent =
      send(connection.socket.get(), replies.data(), replies.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent < 0 && errno != EAGAIN && errno != EINTR) {
    return End(connection, "ERR_DISK_LOST", std::strerror(errno));
  }
  if (sent > 0) replies.erase(replies.begin(), replies.begin() + sent);
  if (replies.size() > kUnreadRepliesBytesMax) {
    End(connection, "ERR_PROTOCOL_NBD", "requests and does not read its replies");
  }
}

void DiskIntake::End(Connection& connection, std::string code, std::string text) {
  if (!connection.socket.valid()) return;
  // Not only closed: who watches has a copy, and QEMU must not wait for it.
  shutdown(connection.socket.get(), SHUT_RDWR);
  connection.socket.Reset();
  const std::lock_guard guard(lock_);
  gone_.push_back({connection.disk, std::move(code), std::move(text)});
  Wake();
}

bool DiskIntake::Keep(uint32_t disk, std::vector<WritePiece>& pieces) {
  const std::lock_guard guard(lock_);
  if (is_overrun_ || !queue_.Push(disk, pieces)) return false;
  TellCounts();
  if (queue_.waiting_bytes() > wake_above_bytes_) Wake();
  return true;
}

void DiskIntake::Kick() {
  const uint64_t one = 1;
  // It can only fail when the thread is woken already.
  [[maybe_unused]] const ssize_t written = write(kick_.get(), &one, sizeof one);
}

void DiskIntake::Wake() {
  wake_above_bytes_ = UINT64_MAX;
  if (is_woken_ || is_closed_) return;
  is_woken_ = true;
  wake_();
}

void DiskIntake::TellCounts() {
  Store(words_.received, queue_.received());
  Store(words_.waiting_bytes, queue_.waiting_bytes());
}

}  // namespace romulus
