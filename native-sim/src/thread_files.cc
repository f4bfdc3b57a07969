// A descriptor table for one thread alone.
//
// Why: a killed process keeps its sockets open until the kernel has torn down its memory, because
// the last thread to go frees the memory first and the shared table of descriptors after (do_exit in
// kernel/exit.c: exit_mm, then exit_files). For an engine that shadows gigabytes that takes longer
// than failing over. A thread with a table of its own is not the last one, so its sockets close at
// once, and the other side hears of the death within a millisecond or two.
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>
#include <uv.h>

#include <cstdlib>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "areas.h"


namespace romulus {

namespace {

constexpr const char* kDescriptors = "/proc/thread-self/fd";
constexpr int kLastStandardDescriptor = 2;

std::string TargetOf(int fd) {
  char target[256];
  const std::string path = std::string(kDescriptors) + "/" + std::to_string(fd);
  const ssize_t length = readlink(path.c_str(), target, sizeof target);
  return length < 0 ? std::string() : std::string(target, static_cast<size_t>(length));
}

// Pipes that stay: those by which libuv's signal handler, which runs on any thread, locks and tells
// the event loops, and whatever else the main thread has while it is not starting a child.
struct LastingPipes {
  std::mutex mutex;
  std::set<std::string> targets;
};

LastingPipes& lasting_pipes() {
  static LastingPipes pipes;
  return pipes;
}

bool IsPipe(const std::string& target) { return target.rfind("pipe:", 0) == 0; }

// A pipe by which another thread waits for the end of its child's exec (uv_spawn): it waits for the
// last copy of the other end to be closed, and would wait for ours for ever. libuv makes it blocking;
// those of event loops are not.
bool IsTransientPipe(int fd, const std::string& target) {
  if (!IsPipe(target)) return false;
  {
    const std::scoped_lock lock(lasting_pipes().mutex);
    if (lasting_pipes().targets.contains(target)) return false;
  }
  const int flags = fcntl(fd, F_GETFL);
  return flags >= 0 && (flags & O_NONBLOCK) == 0;
}

// What other threads own and close on their own: a copy here would keep it open behind their back.
// Event loops' own descriptors (epoll, eventfd, pipes) stay, this thread's among them.
bool BelongsToOthers(int fd, const std::string& target) {
  return target.rfind("socket:", 0) == 0 || target.rfind("/", 0) == 0 ||
         target == "anon_inode:[userfaultfd]" || target == "anon_inode:[pidfd]" ||
         IsTransientPipe(fd, target);
}

std::vector<int> OpenDescriptors() {
  std::vector<int> open;
  DIR* directory = opendir(kDescriptors);
  if (directory == nullptr) return open;
  while (const dirent* entry = readdir(directory)) {
    char* end = nullptr;
    const long fd = strtol(entry->d_name, &end, 10);
    if (*end == '\0' && fd != dirfd(directory)) open.push_back(static_cast<int>(fd));
  }
  closedir(directory);
  return open;
}

// Remembers the pipes that are open. A thread that starts children calls it itself: then it is not in
// the middle of that.
Napi::Value LearnPipes(const Napi::CallbackInfo& info) {
  std::set<std::string> targets;
  for (const int fd : OpenDescriptors()) {
    std::string target = TargetOf(fd);
    if (IsPipe(target)) targets.insert(std::move(target));
  }
  const std::scoped_lock lock(lasting_pipes().mutex);
  lasting_pipes().targets = std::move(targets);
  return info.Env().Undefined();
}

// Acts on the calling thread alone; call it before the thread opens its first socket. Gives the
// descriptors of the thread's event loop, of which the old table keeps a copy.
Napi::Value IsolateDescriptors(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Array copies = Napi::Array::New(env);
  if (unshare(CLONE_FILES) != 0) return copies;
  for (const int fd : OpenDescriptors()) {
    if (fd > kLastStandardDescriptor && BelongsToOthers(fd, TargetOf(fd))) close(fd);
  }
  uv_loop_t* loop = nullptr;
  if (napi_get_uv_event_loop(env, &loop) != napi_ok || loop == nullptr) return copies;
  uint32_t count = 0;
  for (const int fd : {loop->backend_fd, loop->async_io_watcher.fd, loop->async_wfd,
                       loop->signal_pipefd[0], loop->signal_pipefd[1]}) {
    if (fd > kLastStandardDescriptor) copies.Set(count++, Napi::Number::New(env, fd));
  }
  return copies;
}

// Closes the copies that an ended thread's loop left in this table.
Napi::Value CloseLoopDescriptors(const Napi::CallbackInfo& info) {
  const Napi::Array copies = info[0].As<Napi::Array>();
  for (uint32_t index = 0; index < copies.Length(); ++index) {
    const int fd = copies.Get(index).ToNumber().Int32Value();
    const std::string target = TargetOf(fd);
    // Only what such a loop has, whatever has taken the number since.
    if (target.rfind("anon_inode:[event", 0) == 0 || target.rfind("pipe:", 0) == 0) close(fd);
  }
  return info.Env().Undefined();
}

}  // namespace

void InitThreadFiles(Napi::Env env, Napi::Object exports) {
  exports.Set("learnPipes", Napi::Function::New(env, LearnPipes));
  exports.Set("isolateDescriptors", Napi::Function::New(env, IsolateDescriptors));
  exports.Set("closeLoopDescriptors", Napi::Function::New(env, CloseLoopDescriptors));
}

}  // namespace romulus
