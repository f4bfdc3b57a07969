// romulus-guardian: lets a QEMU machine run on when the engine that had stopped it for a checkpoint
// died before it could. It takes no decision about roles, and touches neither a machine that runs
// nor one that somebody else paused. Last of all it removes the file for device states that a dead
// engine left behind.
//
//     romulus-guardian QMP_SOCKET STATE_FILE
//                                      stdin: a pipe from the engine; descriptor 3: the pause word
//
// The engine's death is the end of the pipe. A byte on the pipe is a farewell: the engine ends
// orderly and needs nobody. The pause word (memory shared with the engine, native-sim/src/qmp_pause.h)
// tells whether the death fell between `stop` and `cont`.
//
// A process of its own, in native code, because it must be there already when the engine dies, cost
// nothing until then, and share no fate with it: no heap to tear down, no event loop.
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

namespace {

constexpr int kWordDescriptor = 3;
// The engine's own connection to the socket ends only when the kernel has torn the engine down, and
// QEMU serves one client at a time: so much for a large engine on a busy host.
constexpr int kRescueMs = 60'000;
constexpr int kRetryMs = 5;
constexpr size_t kAnswerBytesMax = size_t{1} << 20;

int64_t NowMs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

// Waits for the engine's farewell or death; true when it died.
bool EngineDied() {
  for (;;) {
    char byte = 0;
    const ssize_t got = read(STDIN_FILENO, &byte, 1);
    if (got < 0 && errno == EINTR) continue;
    return got <= 0;
  }
}

bool WasInPause() {
  void* word = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, kWordDescriptor, 0);
  if (word == MAP_FAILED) return false;
  const bool in_pause = __atomic_load_n(static_cast<uint32_t*>(word), __ATOMIC_SEQ_CST) != 0;
  munmap(word, 4096);
  return in_pause;
}

int Connect(const char* path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (strlen(path) >= sizeof(address.sun_path)) {
    errno = ENAMETOOLONG;
    return -1;
  }
  strcpy(address.sun_path, path);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd >= 0 && connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) return fd;
  const int why = errno;
  if (fd >= 0) close(fd);
  errno = why;
  return -1;
}

// Reads until a line holds `wanted` (the greeting, or a command's id).
bool Expect(int fd, const char* wanted, int64_t deadline_ms) {
  std::string received;
  while (received.size() < kAnswerBytesMax) {
    const int64_t left_ms = deadline_ms - NowMs();
    if (left_ms <= 0) return false;
    pollfd ready{fd, POLLIN, 0};
    if (poll(&ready, 1, static_cast<int>(left_ms)) <= 0) continue;
    char chunk[4096];
    const ssize_t got = read(fd, chunk, sizeof(chunk));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    received.append(chunk, static_cast<size_t>(got));
    const size_t at = received.find(wanted);
    if (at != std::string::npos && received.find('\n', at) != std::string::npos) return true;
  }
  return false;
}

bool Ask(int fd, const char* line, const char* id, int64_t deadline_ms) {
  const size_t length = strlen(line);
  return send(fd, line, length, MSG_NOSIGNAL) == static_cast<ssize_t>(length) &&
         Expect(fd, id, deadline_ms);
}

bool LetRunOn(const char* path) {
  const int64_t deadline_ms = NowMs() + kRescueMs;
  while (NowMs() < deadline_ms) {
    const int fd = Connect(path);
    // Nobody listens there any more: the machine died with its engine.
    if (fd < 0 && (errno == ECONNREFUSED || errno == ENOENT)) return true;
    const bool done =
        fd >= 0 && Expect(fd, "\"QMP\"", deadline_ms) &&
        Ask(fd, "{\"execute\":\"qmp_capabilities\",\"id\":\"guardian-hello\"}\n", "guardian-hello",
            deadline_ms) &&
        Ask(fd, "{\"execute\":\"cont\",\"id\":\"guardian-cont\"}\n", "guardian-cont", deadline_ms);
    if (fd >= 0) close(fd);
    if (done) return true;
    usleep(kRetryMs * 1000);
  }
  return false;
}

// The file stands alone in a directory of its own.
void RemoveStateFile(const std::string& path) {
  unlink(path.c_str());
  const size_t slash = path.rfind('/');
  if (slash != std::string::npos && slash > 0) rmdir(path.substr(0, slash).c_str());
}

}  // namespace

int main(int argument_count, char** arguments) {
  if (argument_count != 3) {
    std::fprintf(stderr,
                 "usage: romulus-guardian QMP_SOCKET STATE_FILE (started by romulus protect)\n");
    return 2;
  }
  // What ends a terminal or a service must not end the one that cleans up after it; the pipe does.
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) signal(number, SIG_IGN);
  if (!EngineDied()) return 0;
  const bool runs_on = !WasInPause() || LetRunOn(arguments[1]);
  RemoveStateFile(arguments[2]);
  if (runs_on) return 0;
  std::fprintf(stderr, "romulus-guardian: the machine at %s may still be paused; send it cont\n",
               arguments[1]);
  return 1;
}
