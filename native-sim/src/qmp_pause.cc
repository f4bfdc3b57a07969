#include "qmp_pause.h"

#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "failure.h"
#include "priority.h"

namespace romulus {

namespace {

constexpr size_t kReadBytes = 16384;
// More than this during one pause is no QMP conversation.
constexpr size_t kForeignBytesMax = size_t{4} << 20;

uint64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

bool Contains(std::string_view line, std::string_view part) {
  return line.find(part) != std::string_view::npos;
}

// The commands used here return an empty object, so the key `error` appears in refusals alone.
bool IsRefusal(std::string_view line) { return Contains(line, "\"error\":"); }

bool IsStopEvent(std::string_view line) { return Contains(line, "\"event\": \"STOP\""); }

}  // namespace

QmpPause::QmpPause(int fd, std::shared_ptr<MappedMemory> in_pause)
    : fd_(fd), in_pause_(std::move(in_pause)) {}

PauseOutcome QmpPause::Take(const PauseRequest& request,
                            const std::function<void()>& while_stopped) {
  saw_stop_event_ = false;
  refusal_.clear();
  times_ = PauseTimes{};
  const Urgent urgent;
  begun_ns_ = NowNs();
  Mark(1);
  if (!Write(request.stop_and_save, request.timeout_ms)) {
    Mark(0);
    // It may have said why before it went.
    while (buffer_.size() <= kForeignBytesMax && Read() > 0) {
    }
    return PauseOutcome::kLost;
  }
  switch (WaitFor(request.stop_id, request.timeout_ms)) {
    case Wait::kAnswered:
      break;
    case Wait::kRefused:
      // The state was asked for all the same; its answer must not be left to the client.
      WaitFor(request.save_id, request.timeout_ms);
      Mark(0);
      return PauseOutcome::kStopRefused;
    case Wait::kTimeout:
      return Rescue(request, PauseOutcome::kTimeout);
    case Wait::kLost:
      Mark(0);
      return PauseOutcome::kLost;
  }
  times_.stopped_ns = SinceNs();
  if (!saw_stop_event_) {
    Mark(0);
    const Wait saved = WaitFor(request.save_id, request.timeout_ms);
    return saved == Wait::kLost      ? PauseOutcome::kLost
           : saved == Wait::kTimeout ? PauseOutcome::kTimeout
                                     : PauseOutcome::kNotRunning;
  }
  try {
    while_stopped();
  } catch (...) {
    Rescue(request, PauseOutcome::kDone);
    throw;
  }
  times_.captured_ns = SinceNs();
  // QEMU takes commands in their order, so it resumes as soon as the state is saved, or could not be,
  // with no round trip in between.
  const bool is_resuming = Write(request.cont, request.timeout_ms);
  const Wait saved = WaitFor(request.save_id, request.timeout_ms);
  times_.saved_ns = SinceNs();
  if (saved == Wait::kLost) {
    Mark(0);
    return PauseOutcome::kLost;
  }
  // The word stays: the guardian goes on trying.
  if (!is_resuming) return PauseOutcome::kLost;
  const std::string why = refusal_;
  const PauseOutcome outcome = Resumed(request, saved == Wait::kTimeout   ? PauseOutcome::kTimeout
                                                : saved == Wait::kRefused ? PauseOutcome::kSaveRefused
                                                                          : PauseOutcome::kDone);
  if (outcome == PauseOutcome::kSaveRefused) refusal_ = why;
  return outcome;
}

// Lets the machine run on. `outcome` is what is reported when that works.
PauseOutcome QmpPause::Rescue(const PauseRequest& request, PauseOutcome outcome) {
  if (Write(request.cont, request.timeout_ms)) return Resumed(request, outcome);
  times_.resumed_ns = SinceNs();
  return PauseOutcome::kLost;
}

// `cont` was sent; waits until the machine runs.
PauseOutcome QmpPause::Resumed(const PauseRequest& request, PauseOutcome outcome) {
  const bool is_well = outcome == PauseOutcome::kDone;
  const Wait resumed = WaitFor(request.cont_id, is_well ? request.timeout_ms : request.rescue_ms);
  times_.resumed_ns = SinceNs();
  switch (resumed) {
    case Wait::kAnswered:
      Mark(0);
      return outcome;
    case Wait::kRefused:
      Mark(0);
      return PauseOutcome::kContRefused;
    case Wait::kTimeout:
      // The word stays: should this process end now, the guardian goes on trying.
      return PauseOutcome::kTimeout;
    case Wait::kLost:
      break;
  }
  return PauseOutcome::kLost;
}

bool QmpPause::Write(std::string_view bytes, int timeout_ms) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      bytes.remove_prefix(static_cast<size_t>(sent));
      continue;
    }
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno != EAGAIN) return false;
    pollfd ready{fd_, POLLOUT, 0};
    if (poll(&ready, 1, timeout_ms) <= 0) return false;
  }
  return true;
}

QmpPause::Wait QmpPause::WaitFor(std::string_view id, int timeout_ms) {
  const uint64_t deadline_ns = NowNs() + static_cast<uint64_t>(timeout_ms) * 1'000'000;
  for (;;) {
    std::string_view line;
    while (NextLine(&line)) {
      if (IsStopEvent(line)) saw_stop_event_ = true;
      if (!Contains(line, id)) continue;
      const bool refused = IsRefusal(line);
      if (refused) refusal_ = std::string(line);
      Claim(line);
      return refused ? Wait::kRefused : Wait::kAnswered;
    }
    const uint64_t now_ns = NowNs();
    if (now_ns >= deadline_ns) return Wait::kTimeout;
    pollfd ready{fd_, POLLIN, 0};
    const auto left_ms = static_cast<int>((deadline_ns - now_ns) / 1'000'000) + 1;
    const int polled = poll(&ready, 1, left_ms);
    if (polled < 0 && errno != EINTR) return Wait::kLost;
    if (polled <= 0) continue;
    if (buffer_.size() > kForeignBytesMax) return Wait::kLost;
    const ssize_t got = Read();
    if (got == 0) return Wait::kLost;
    if (got < 0 && errno != EAGAIN && errno != EINTR) return Wait::kLost;
  }
}

ssize_t QmpPause::Read() {
  const size_t had = buffer_.size();
  buffer_.resize(had + kReadBytes);
  const ssize_t got = recv(fd_, buffer_.data() + had, kReadBytes, MSG_DONTWAIT);
  buffer_.resize(had + static_cast<size_t>(std::max<ssize_t>(got, 0)));
  return got;
}

bool QmpPause::NextLine(std::string_view* line) {
  const size_t feed = buffer_.find('\n', scanned_);
  if (feed == std::string::npos) return false;
  *line = std::string_view(buffer_).substr(scanned_, feed + 1 - scanned_);
  scanned_ = feed + 1;
  return true;
}

void QmpPause::Claim(std::string_view line) {
  const size_t length = line.size();
  buffer_.erase(scanned_ - length, length);
  scanned_ -= length;
}

std::string QmpPause::TakeForeign() {
  scanned_ = 0;
  return std::exchange(buffer_, std::string());
}

uint64_t QmpPause::SinceNs() const { return NowNs() - begun_ns_; }

void QmpPause::Mark(uint32_t value) {
  if (!in_pause_) return;
  auto* word = reinterpret_cast<std::atomic<uint32_t>*>(in_pause_->data());
  word->store(value, std::memory_order_seq_cst);
}

}  // namespace romulus
