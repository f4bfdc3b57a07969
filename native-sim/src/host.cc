// What this host can do, found out by trying, and the two things a timing thread needs of it: a
// monotonic clock without rounding and a place at the head of the run queue.
#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "areas.h"
#include "border.h"
#include "copy.h"
#include "fd.h"
#include "heartbeat_ease.h"
#include "pagemap_abi.h"
#include "priority.h"
#include "staged_pages.h"
#include "tracker.h"

namespace romulus {

namespace {

bool HasAsyncUserfaultfd() {
  const Fd fd(
      static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | kUffdUserModeOnly)));
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = kUffdFeatureWpAsync | kUffdFeatureWpUnpopulated | kUffdFeatureWpHugetlbfsShmem;
  return fd.valid() && ioctl(fd.get(), UFFDIO_API, &api) == 0;
}

bool HasPagemapScan() {
  void* page = mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return false;
  *static_cast<volatile uint8_t*>(page) = 1;
  const Fd pagemap(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  PageRegion region{};
  PageScanArgument argument{};
  argument.size = sizeof(argument);
  argument.start = reinterpret_cast<uint64_t>(page);
  argument.end = argument.start + kPageBytes;
  argument.vec = reinterpret_cast<uint64_t>(&region);
  argument.vec_len = 1;
  argument.category_mask = kPageIsPresent;
  argument.return_mask = kPageIsPresent;
  const bool works = pagemap.valid() && ioctl(pagemap.get(), kPagemapScan, &argument) == 1;
  munmap(page, kPageBytes);
  return works;
}

// -1: no such file, so no such restriction (or no such feature).
int ReadSetting(const char* path) {
  int value = -1;
  FILE* file = fopen(path, "re");
  if (file == nullptr) return -1;
  if (std::fscanf(file, "%d", &value) != 1) value = -1;
  fclose(file);
  return value;
}

bool HasPtraceCapability() {
  FILE* file = fopen("/proc/self/status", "re");
  if (file == nullptr) return false;
  char line[256];
  unsigned long long effective = 0;
  while (fgets(line, sizeof(line), file) != nullptr) {
    if (std::sscanf(line, "CapEff: %llx", &effective) == 1) break;
  }
  fclose(file);
  constexpr int kCapSysPtrace = 19;
  return (effective >> kCapSysPtrace & 1) != 0;
}

Napi::Value HostFacts(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const Napi::Env env = info.Env();
    auto facts = Napi::Object::New(env);
    utsname name{};
    uname(&name);
    cpu_set_t cpus;
    const bool counted = sched_getaffinity(0, sizeof(cpus), &cpus) == 0;
    facts.Set("kernelRelease", Napi::String::New(env, name.release));
    facts.Set("machine", Napi::String::New(env, name.machine));
    facts.Set("simd", Napi::String::New(env, SimdName(BestSimd())));
    facts.Set("cores", Napi::Number::New(env, counted ? CPU_COUNT(&cpus)
                                                      : sysconf(_SC_NPROCESSORS_ONLN)));
    facts.Set("memoryBytes",
              Napi::Number::New(env, static_cast<double>(sysconf(_SC_PHYS_PAGES)) * kPageBytes));
    facts.Set("userfaultfd", Napi::Boolean::New(env, HasAsyncUserfaultfd()));
    facts.Set("pagemapScan", Napi::Boolean::New(env, HasPagemapScan()));
    facts.Set("softDirty", Napi::Boolean::New(env, HasSoftDirty()));
    facts.Set("ptraceCapability", Napi::Boolean::New(env, HasPtraceCapability()));
    facts.Set("yamaScope",
              Napi::Number::New(env, ReadSetting("/proc/sys/kernel/yama/ptrace_scope")));
    facts.Set("mapCountMax", Napi::Number::New(env, ReadSetting("/proc/sys/vm/max_map_count")));
    return facts;
  });
}

Napi::Value MonotonicNs(const Napi::CallbackInfo& info) {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return Napi::BigInt::New(info.Env(),
                           static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 +
                               static_cast<uint64_t>(now.tv_nsec));
}

// Threads of libuv's pool, which carry out file operations. They have neither names nor a listing,
// so each is asked itself, by work that holds on to its thread until all have met.
class PoolThreads {
 public:
  static constexpr size_t kDefault = 4;
  static constexpr size_t kMost = 16;
  static constexpr auto kMeetingMax = std::chrono::milliseconds(50);

  static size_t Expected() {
    const char* text = std::getenv("UV_THREADPOOL_SIZE");
    const long asked = text == nullptr ? 0 : std::strtol(text, nullptr, 10);
    return asked <= 0 ? kDefault : std::min(static_cast<size_t>(asked), kMost);
  }

  void Meet() {
    std::unique_lock lock(mutex_);
    const auto thread_id = static_cast<pid_t>(syscall(SYS_gettid));
    if (std::find(ids_.begin(), ids_.end(), thread_id) == ids_.end()) ids_.push_back(thread_id);
    met_.notify_all();
    // A pool that is busy or smaller than thought must not be held up for long.
    met_.wait_for(lock, kMeetingMax, [this] { return ids_.size() >= Expected(); });
  }

  std::vector<pid_t> ids() {
    const std::lock_guard lock(mutex_);
    return ids_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable met_;
  std::vector<pid_t> ids_;
};

// One for the process, as the pool is.
PoolThreads pool_threads;

class PoolMeeting final : public Napi::AsyncWorker {
 public:
  explicit PoolMeeting(Napi::Env env) : Napi::AsyncWorker(env) {}
  void Execute() override { pool_threads.Meet(); }
  void OnOK() override {}
};

// Returns at once; the pool's threads are known a moment later. From any thread; they stay known.
Napi::Value LearnPool(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    // Each deletes itself when it is done.
    for (size_t i = 0; i < PoolThreads::Expected(); ++i) (new PoolMeeting(info.Env()))->Queue();
    return Napi::Number::New(info.Env(), static_cast<double>(pool_threads.ids().size()));
  });
}

// Acts on the main thread and the pool's, from whichever thread it is called. RESET_ON_FORK stays set, since taking
// it back needs a right that raising the priority does not.
Napi::Value BoostMain(const Napi::CallbackInfo& info) {
  const bool boosted = info[0].ToBoolean().Value();
  sched_param parameters{};
  parameters.sched_priority = boosted ? kMainPriority : 0;
  const int policy = (boosted ? SCHED_RR : SCHED_OTHER) | SCHED_RESET_ON_FORK;
  for (const pid_t thread_id : pool_threads.ids()) {
    sched_setscheduler(thread_id, policy, &parameters);
  }
  return Napi::Boolean::New(info.Env(), sched_setscheduler(getpid(), policy, &parameters) == 0);
}

// Acts on the calling thread alone, so call it in the thread that is to be boosted.
Napi::Value BoostThread(const Napi::CallbackInfo& info) {
  const char* result = "none";
  HeartbeatIsBoosted();
  sched_param parameters{};
  parameters.sched_priority = kHeartbeatPriority;
  // RESET_ON_FORK: what this thread starts later (compiler threads, children) stays ordinary.
  if (sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &parameters) == 0) {
    result = "rr";
  } else {
    const auto thread_id = static_cast<id_t>(syscall(SYS_gettid));
    for (int niceness = kBoostNiceness; niceness < 0; niceness += 5) {
      if (setpriority(PRIO_PROCESS, thread_id, niceness) == 0) {
        result = "nice";
        break;
      }
    }
  }
  return Napi::String::New(info.Env(), result);
}

// Acts on the calling thread, which must be the heartbeat thread.
Napi::Value EaseThread(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), EaseHeartbeat(static_cast<pid_t>(syscall(SYS_gettid))));
}

Napi::Value WasCalledUp(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), WasHeartbeatCalledUp());
}

// (path, words): this process goes on as that program. Returns only when it cannot: the reason.
Napi::Value BecomeProgram(const Napi::CallbackInfo& info) {
  const std::string path = info[0].As<Napi::String>();
  auto list = info[1].As<Napi::Array>();
  std::vector<std::string> words;
  for (uint32_t at = 0; at < list.Length(); ++at) {
    words.push_back(list.Get(at).As<Napi::String>());
  }
  std::vector<char*> arguments;
  for (auto& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  // Node keeps even these for itself.
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) fcntl(stream, F_SETFD, 0);
  execv(path.c_str(), arguments.data());
  return Napi::String::New(info.Env(), std::strerror(errno));
}

// Who listens at the other end of a connected unix socket: the process that called listen(2).
// Borrows the descriptor; any thread.
Napi::Value SocketPeer(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const auto fd = static_cast<int>(WholeNumber(info[0], "fd"));
    ucred peer{};
    socklen_t bytes = sizeof(peer);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) {
      throw Failure::System("ERR_HOST_SOCKET_PEER", "the peer of a socket cannot be asked for",
                            "Pass the descriptor of a connected unix socket.");
    }
    auto result = Napi::Object::New(info.Env());
    result.Set("pid", Napi::Number::New(info.Env(), peer.pid));
    result.Set("uid", Napi::Number::New(info.Env(), peer.uid));
    return result;
  });
}

// Batches and received payloads are about a megabyte and live for milliseconds. Given back to the
// kernel at every release, each costs 256 page faults at its next birth, as much as encoding it.
constexpr int kReuseBelowBytes = 32 << 20;
constexpr int kKeepFreeBytes = 128 << 20;

void KeepFreedBuffers() {
  mallopt(M_MMAP_THRESHOLD, kReuseBelowBytes);
  mallopt(M_TRIM_THRESHOLD, kKeepFreeBytes);
}

}  // namespace

void InitHost(Napi::Env env, Napi::Object exports) {
  KeepFreedBuffers();
  exports.Set("hostFacts", Napi::Function::New(env, HostFacts));
  exports.Set("monotonicNs", Napi::Function::New(env, MonotonicNs));
  exports.Set("learnPool", Napi::Function::New(env, LearnPool));
  exports.Set("boostMain", Napi::Function::New(env, BoostMain));
  exports.Set("socketPeer", Napi::Function::New(env, SocketPeer));
  exports.Set("boostThread", Napi::Function::New(env, BoostThread));
  exports.Set("becomeProgram", Napi::Function::New(env, BecomeProgram));
  exports.Set("wasCalledUp", Napi::Function::New(env, WasCalledUp));
  exports.Set("easeThread", Napi::Function::New(env, EaseThread));
}

}  // namespace romulus
