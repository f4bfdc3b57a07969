#include "step_aside.h"

#include <fcntl.h>

#include <charconv>
#include <cstring>
#include <string>
#include <string_view>

namespace romulus {

namespace {

// Counted from the state, which follows the name (proc_pid_stat(5)).
constexpr int kProcessorField = 36;
constexpr size_t kStatBytesMax = 1024;

}  // namespace

ThreadPlace::ThreadPlace(pid_t process_id) {
  if (process_id == 0) return;
  const std::string id = std::to_string(process_id);
  stat_ = Fd(open(("/proc/" + id + "/task/" + id + "/stat").c_str(), O_RDONLY | O_CLOEXEC));
}

int ThreadPlace::RunnableOn() const {
  if (!stat_.valid()) return -1;
  char bytes[kStatBytesMax];
  const ssize_t got = pread(stat_.get(), bytes, sizeof bytes, 0);
  if (got <= 0) return -1;
  std::string_view rest(bytes, static_cast<size_t>(got));
  // The name may hold anything.
  const size_t name_end = rest.rfind(") ");
  if (name_end == std::string_view::npos) return -1;
  rest.remove_prefix(name_end + 2);
  if (!rest.starts_with('R')) return -1;
  for (int field = 0; field < kProcessorField; ++field) {
    const size_t space = rest.find(' ');
    if (space == std::string_view::npos) return -1;
    rest.remove_prefix(space + 1);
  }
  int cpu = -1;
  const auto read = std::from_chars(rest.data(), rest.data() + rest.size(), cpu);
  return read.ec == std::errc() ? cpu : -1;
}

void StepAside::IfInTheWay() {
  const int here = sched_getcpu();
  if (here < 0 || here >= CPU_SETSIZE || other_.RunnableOn() != here) return;
  if (!is_aside_ && sched_getaffinity(0, sizeof own_, &own_) != 0) return;
  cpu_set_t allowed = own_;
  CPU_CLR(here, &allowed);
  // Of a thread that runs, this returns when it is elsewhere. With no other CPU it is refused.
  if (sched_setaffinity(0, sizeof allowed, &allowed) == 0) is_aside_ = true;
}

void StepAside::Return() {
  if (!is_aside_) return;
  is_aside_ = false;
  // All CPUs there may ever be: so a thread without a mask of its own has none again, and follows its
  // cpuset. One that had a mask is told by what comes of it.
  cpu_set_t every;
  std::memset(&every, 0xff, sizeof every);
  cpu_set_t found;
  const bool is_free = sched_setaffinity(0, sizeof every, &every) == 0 &&
                       sched_getaffinity(0, sizeof found, &found) == 0 && CPU_EQUAL(&found, &own_);
  if (!is_free) sched_setaffinity(0, sizeof own_, &own_);
}

}  // namespace romulus
