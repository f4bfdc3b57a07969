#include "attach.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "failure.h"
#include "pagemap_abi.h"

namespace romulus {

namespace {

constexpr char kRemedyRights[] =
    "Run Romulus as root or with CAP_SYS_PTRACE, or as the machine's user with "
    "kernel.yama.ptrace_scope=0.";

#if defined(__x86_64__)

constexpr size_t kHelperStackBytes = 64 * 1024;
constexpr int kStopWaitsMax = 40000;          // of 50 us each: 2 s
constexpr long kStopWaitNs = 50'000;
constexpr int kForeignStopsMax = 16;          // signals let through before we have our stop
constexpr size_t kVdsoBytesMax = 64 * 1024;
constexpr uint64_t kUserCodeSegment64 = 0x33;

#ifndef PTRACE_O_SUSPEND_SECCOMP
#define PTRACE_O_SUSPEND_SECCOMP (1 << 21)
#endif

// Shared between the calling thread and the helper, which runs while that thread is suspended.
struct Injection {
  pid_t pid = 0;
  uint64_t syscall_address = 0;
  bool seccomp_filtered = false;
  int fd = -1;
  int error_number = 0;
  const char* failed_step = nullptr;
};

// Everything below runs in the helper: plain system calls, no allocation, no locks.

bool Fail(Injection* injection, const char* step) {
  injection->failed_step = step;
  injection->error_number = errno;
  return false;
}

// Waits for the traced thread to stop. 0: it did; else an errno.
int AwaitStop(pid_t pid, int* status) {
  for (int i = 0; i < kStopWaitsMax; ++i) {
    const pid_t got = waitpid(pid, status, __WALL | WNOHANG);
    if (got == pid) return WIFSTOPPED(*status) ? 0 : ESRCH;
    if (got < 0 && errno != EINTR) return errno;
    const timespec pause = {0, kStopWaitNs};
    nanosleep(&pause, nullptr);
  }
  return ETIMEDOUT;
}

// Runs one system call in the stopped thread. The result is as the kernel gives it: -errno on error.
bool RunSyscall(Injection* injection, const user_regs_struct& saved, long number, uint64_t argument,
                int64_t* result) {
  user_regs_struct regs = saved;
  regs.rip = injection->syscall_address;
  regs.rax = static_cast<uint64_t>(number);
  regs.rdi = argument;
  regs.orig_rax = ~uint64_t{0};  // no system call is being interrupted: nothing to restart
  if (ptrace(PTRACE_SETREGS, injection->pid, nullptr, &regs) != 0) {
    return Fail(injection, "set its registers");
  }
  intptr_t signal_number = 0;
  for (int i = 0; i < kForeignStopsMax; ++i) {
    int status = 0;
    if (ptrace(PTRACE_SINGLESTEP, injection->pid, nullptr, signal_number) != 0) {
      return Fail(injection, "let it run one instruction");
    }
    if ((errno = AwaitStop(injection->pid, &status)) != 0) {
      return Fail(injection, "wait for its system call");
    }
    if (status >> 16 == 0 && WSTOPSIG(status) == SIGTRAP) {
      signal_number = 0;
    } else {
      // SIGSTOP cannot be blocked. It is passed on, so that the process stops once we let go of it;
      // the stop that it causes first is reported with an event, and stepped over.
      signal_number = status >> 16 == 0 ? WSTOPSIG(status) : 0;
      continue;
    }
    if (ptrace(PTRACE_GETREGS, injection->pid, nullptr, &regs) != 0) {
      return Fail(injection, "read its registers");
    }
    if (regs.rip != injection->syscall_address + 2) {
      errno = EPROTO;
      return Fail(injection, "run a system call in it");
    }
    *result = static_cast<int64_t>(regs.rax);
    return true;
  }
  errno = EAGAIN;
  return Fail(injection, "run a system call in it");
}

bool InjectWhileStopped(Injection* injection, const user_regs_struct& saved) {
  int64_t remote = -1;
  if (!RunSyscall(injection, saved, SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | kUffdUserModeOnly,
                  &remote)) {
    return false;
  }
  if (remote < 0) {
    errno = static_cast<int>(-remote);
    return Fail(injection, "create a userfaultfd in it");
  }
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, injection->pid, 0));
  if (pidfd < 0) {
    Fail(injection, "open a pidfd of it");
  } else {
    injection->fd = static_cast<int>(syscall(SYS_pidfd_getfd, pidfd, remote, 0));
    if (injection->fd < 0) Fail(injection, "fetch the userfaultfd from it");
    close(pidfd);
  }
  int64_t closed = 0;
  if (!RunSyscall(injection, saved, SYS_close, static_cast<uint64_t>(remote), &closed)) return false;
  return injection->fd >= 0;
}

bool InjectTraced(Injection* injection) {
  const pid_t pid = injection->pid;
  if (ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr) != 0) return Fail(injection, "interrupt it");
  int status = 0;
  bool stopped = false;
  for (int i = 0; i < kForeignStopsMax && !stopped; ++i) {
    if ((errno = AwaitStop(pid, &status)) != 0) return Fail(injection, "stop it");
    stopped = status >> 16 == PTRACE_EVENT_STOP;
    if (!stopped && ptrace(PTRACE_CONT, pid, nullptr, WSTOPSIG(status)) != 0) {
      return Fail(injection, "pass a signal on to it");
    }
  }
  if (!stopped) {
    errno = EAGAIN;
    return Fail(injection, "stop it");
  }
  // A filter that kills on an unforeseen system call would take the machine down with it: we go on
  // only where the kernel lets us suspend the filter for the stop.
  if (injection->seccomp_filtered &&
      ptrace(PTRACE_SETOPTIONS, pid, nullptr, PTRACE_O_SUSPEND_SECCOMP) != 0) {
    return Fail(injection, "suspend its seccomp filter");
  }
  user_regs_struct saved{};
  if (ptrace(PTRACE_GETREGS, pid, nullptr, &saved) != 0) {
    return Fail(injection, "read its registers");
  }
  if (saved.cs != kUserCodeSegment64) {
    errno = ENOEXEC;
    return Fail(injection, "run a 64-bit system call in it");
  }
  uint64_t saved_mask = 0;
  if (ptrace(PTRACE_GETSIGMASK, pid, sizeof(saved_mask), &saved_mask) != 0) {
    return Fail(injection, "read its signal mask");
  }
  // Signals wait while we borrow the thread; the trap that ends a single step must not.
  uint64_t borrowed_mask = ~(uint64_t{1} << (SIGTRAP - 1));
  if (ptrace(PTRACE_SETSIGMASK, pid, sizeof(borrowed_mask), &borrowed_mask) != 0) {
    return Fail(injection, "set its signal mask");
  }
  const bool injected = InjectWhileStopped(injection, saved);
  ptrace(PTRACE_SETREGS, pid, nullptr, &saved);
  ptrace(PTRACE_SETSIGMASK, pid, sizeof(saved_mask), &saved_mask);
  return injected;
}

int HelperMain(void* argument) {
  auto* injection = static_cast<Injection*>(argument);
  if (ptrace(PTRACE_SEIZE, injection->pid, nullptr, nullptr) != 0) {
    Fail(injection, "trace it");
    return 0;
  }
  InjectTraced(injection);
  ptrace(PTRACE_DETACH, injection->pid, nullptr, nullptr);
  return 0;
}

// Where in the process a `syscall` instruction stands: its vDSO always holds one, so that no code
// of the process need be patched under its other threads' feet.
uint64_t FindSyscallInstruction(pid_t pid) {
  const std::string folder = "/proc/" + std::to_string(pid);
  FILE* maps = fopen((folder + "/maps").c_str(), "re");
  if (maps == nullptr) {
    throw Failure::System(errno == ENOENT ? "ERR_GUEST_LOST" : "ERR_HOST_ATTACH_PERMISSION",
                          "cannot read " + folder + "/maps", kRemedyRights);
  }
  char line[512];
  uint64_t begin = 0;
  uint64_t end = 0;
  bool found = false;
  while (!found && fgets(line, sizeof(line), maps) != nullptr) {
    found = std::strstr(line, "[vdso]") != nullptr &&
            std::sscanf(line, "%" SCNx64 "-%" SCNx64, &begin, &end) == 2;
  }
  fclose(maps);
  if (found && end > begin && end - begin <= kVdsoBytesMax) {
    std::vector<uint8_t> code(end - begin);
    const iovec local = {code.data(), code.size()};
    const iovec remote = {reinterpret_cast<void*>(begin), code.size()};
    const ssize_t got = process_vm_readv(pid, &local, 1, &remote, 1, 0);
    if (got < 0) {
      throw Failure::System(errno == ESRCH ? "ERR_GUEST_LOST" : "ERR_HOST_ATTACH_PERMISSION",
                            "cannot read the memory of process " + std::to_string(pid),
                            kRemedyRights);
    }
    for (ssize_t i = 0; i + 1 < got; ++i) {
      if (code[static_cast<size_t>(i)] == 0x0f && code[static_cast<size_t>(i) + 1] == 0x05) {
        return begin + static_cast<uint64_t>(i);
      }
    }
  }
  throw Failure("ERR_HOST_ATTACH_VDSO",
                "process " + std::to_string(pid) + " has no vDSO with a system call in it",
                "Run the host's kernel with its vDSO enabled (vdso=1), or use another tracker.");
}

bool HasSeccompFilter(pid_t pid) {
  FILE* status = fopen(("/proc/" + std::to_string(pid) + "/status").c_str(), "re");
  if (status == nullptr) return false;
  char line[256];
  int mode = 0;
  while (fgets(line, sizeof(line), status) != nullptr) {
    if (std::sscanf(line, "Seccomp: %d", &mode) == 1) break;
  }
  fclose(status);
  return mode != 0;
}

Failure Describe(const Injection& injection) {
  const std::string what = "cannot attach to process " + std::to_string(injection.pid) + ": could not " +
                           injection.failed_step;
  const bool ours = std::strcmp(injection.failed_step, "create a userfaultfd in it") == 0;
  if (injection.error_number == ESRCH) {
    return Failure::System("ERR_GUEST_LOST", what, "Start the machine and protect it again.",
                           injection.error_number);
  }
  if (std::strcmp(injection.failed_step, "suspend its seccomp filter") == 0) {
    return Failure::System("ERR_HOST_ATTACH_SECCOMP", what,
                           "Run Romulus as root, or start the machine without its seccomp sandbox.",
                           injection.error_number);
  }
  if (ours && injection.error_number == ENOSYS) {
    return Failure::System("ERR_HOST_TRACKER_KERNEL", what,
                           "Run a kernel built with CONFIG_USERFAULTFD, 6.7 or newer.",
                           injection.error_number);
  }
  if (injection.error_number == EPERM || injection.error_number == EACCES) {
    return Failure::System("ERR_HOST_ATTACH_PERMISSION", what, kRemedyRights,
                           injection.error_number);
  }
  return Failure::System("ERR_HOST_ATTACH_FAILED", what,
                         "See that no debugger holds the machine's process, then try again.",
                         injection.error_number);
}

#endif

}  // namespace

#if defined(__x86_64__)

Fd InjectUserfaultfd(pid_t pid) {
  Injection injection;
  injection.pid = pid;
  injection.syscall_address = FindSyscallInstruction(pid);
  injection.seccomp_filtered = HasSeccompFilter(pid);
  void* stack = mmap(nullptr, kHelperStackBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) {
    throw Failure::System("ERR_LIMIT_MEMORY", "cannot allocate a stack", "Free memory on this host.");
  }
  // The helper shares our memory: no signal handler of ours may run in it.
  sigset_t all;
  sigset_t saved;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &saved);
  // CLONE_VFORK: this thread stands still until the helper is gone, so its stack, its errno and
  // the injection are the helper's alone. No exit signal: Node never hears of it.
  const pid_t helper = clone(HelperMain, static_cast<char*>(stack) + kHelperStackBytes,
                             CLONE_VM | CLONE_VFORK | CLONE_FILES, &injection);
  const int clone_errno = errno;
  if (helper > 0) {
    int status = 0;
    while (waitpid(helper, &status, __WALL) < 0 && errno == EINTR) {
    }
  }
  pthread_sigmask(SIG_SETMASK, &saved, nullptr);
  munmap(stack, kHelperStackBytes);
  if (helper < 0) {
    throw Failure::System("ERR_HOST_ATTACH_FAILED", "cannot start the attaching helper",
                          "Raise the limit of processes (ulimit -u).", clone_errno);
  }
  if (injection.failed_step != nullptr) {
    if (injection.fd >= 0) close(injection.fd);
    throw Describe(injection);
  }
  return Fd(injection.fd);
}

#else

Fd InjectUserfaultfd(pid_t pid) {
  throw Failure("ERR_HOST_ATTACH_FAILED",
                "attaching to process " + std::to_string(pid) + " is not supported on this CPU",
                std::string("Use an x86-64 host, or the mprotect tracker of the simulated machine. ") +
                    kRemedyRights);
}

#endif

}  // namespace romulus
