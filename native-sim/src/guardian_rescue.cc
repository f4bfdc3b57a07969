#include "guardian_rescue.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "fd.h"
#include "guardian_clock.h"

namespace romulus {

namespace {

// The engine's own connection to the socket ends only when the kernel has torn the engine down, and
// QEMU serves one client at a time: so much for a large engine on a busy host.
constexpr int kRescueMs = 60'000;
constexpr int kRetryMs = 5;
constexpr size_t kAnswerBytesMax = size_t{1} << 20;

Fd Connect(const char* path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (strlen(path) >= sizeof(address.sun_path)) {
    errno = ENAMETOOLONG;
    return Fd();
  }
  strcpy(address.sun_path, path);
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (fd.valid() &&
      connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) {
    return fd;
  }
  const int why = errno;
  fd.Reset();
  errno = why;
  return fd;
}

// Reads until a line holds `wanted` (the greeting, or a command's id). What was read is put into `answer`,
// unless that is null.
bool Expect(int fd, const char* wanted, int64_t deadline_ms, std::string* answer = nullptr) {
  std::string received;
  while (received.size() < kAnswerBytesMax) {
    const int64_t left_ms = deadline_ms - MonotonicMs();
    if (left_ms <= 0) return false;
    pollfd ready{fd, POLLIN, 0};
    if (poll(&ready, 1, static_cast<int>(left_ms)) <= 0) continue;
    char chunk[4096];
    const ssize_t got = read(fd, chunk, sizeof(chunk));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    received.append(chunk, static_cast<size_t>(got));
    const size_t at = received.find(wanted);
    if (at == std::string::npos || received.find('\n', at) == std::string::npos) continue;
    if (answer != nullptr) *answer = std::move(received);
    return true;
  }
  return false;
}

// A refusal is an answer too: there is nothing to resume, or no such object any more.
bool Ask(int fd, const std::string& command, const std::string& id, int64_t deadline_ms,
         std::string* answer = nullptr) {
  const std::string line = "{" + command + ",\"id\":\"" + id + "\"}\n";
  return send(fd, line.data(), line.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(line.size()) &&
         Expect(fd, id.c_str(), deadline_ms, answer);
}

bool CarryOut(int fd, const RescueOrder& order, int64_t deadline_ms) {
  if (!Expect(fd, "\"QMP\"", deadline_ms)) return false;
  if (!Ask(fd, "\"execute\":\"qmp_capabilities\"", "guardian-hello", deadline_ms)) return false;
  bool is_resume_wanted = order.resume;
  if (order.was_in_pause) {
    std::string status;
    if (!Ask(fd, "\"execute\":\"query-status\"", "guardian-status", deadline_ms, &status)) {
      return false;
    }
    if (status.find("\"save-vm\"") != std::string::npos) is_resume_wanted = true;
  }
  if (is_resume_wanted && !Ask(fd, "\"execute\":\"cont\"", "guardian-cont", deadline_ms)) {
    return false;
  }
  for (uint32_t index = 0; index < order.open_filters; ++index) {
    const std::string number = std::to_string(index);
    const std::string command =
        "\"execute\":\"object-del\",\"arguments\":{\"id\":\"romulus-nf" + number + "\"}";
    if (!Ask(fd, command, "guardian-open-" + number, deadline_ms)) return false;
  }
  return true;
}

}  // namespace

bool Rescue(const char* path, const RescueOrder& order) {
  const int64_t deadline_ms = MonotonicMs() + kRescueMs;
  while (MonotonicMs() < deadline_ms) {
    const Fd fd = Connect(path);
    // Nobody listens there any more: the machine died with its engine.
    if (!fd.valid() && (errno == ECONNREFUSED || errno == ENOENT)) return true;
    if (fd.valid() && CarryOut(fd.get(), order, deadline_ms)) return true;
    usleep(kRetryMs * 1000);
  }
  return false;
}

}  // namespace romulus
