#include "qmp_pause.h"

#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <optional>
#include <utility>

#include "failure.h"
#include "guardian_page.h"
#include "priority.h"

namespace romulus {

namespace {

constexpr size_t kReadBytes = 16384;
// More than this during one pause is no QMP conversation.
constexpr size_t kForeignBytesMax = size_t{4} << 20;
// Less than a guardian lets a pause hold QEMU (guardian_hold.h): after that nothing is certain.
constexpr uint64_t kHeldNsMax = 9'000'000'000;
// A state that does not fit into the pipe is read so often meanwhile.
constexpr int kReadEveryMs = 2;

uint64_t ClockNs(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

uint64_t NowNs() { return ClockNs(CLOCK_MONOTONIC); }

bool Contains(std::string_view line, std::string_view part) {
  return line.find(part) != std::string_view::npos;
}

// The commands used here return an empty object, so the key `error` appears in refusals alone.
bool IsRefusal(std::string_view line) { return Contains(line, "\"error\":"); }

bool IsEvent(std::string_view line, std::string_view name) {
  constexpr std::string_view kKey = "\"event\": \"";
  const size_t at = line.find(kKey);
  return at != std::string_view::npos && line.substr(at + kKey.size()).starts_with(name) &&
         line.substr(at + kKey.size() + name.size()).starts_with('"');
}

uint64_t NumberAfter(std::string_view line, std::string_view key) {
  const size_t at = line.find(key);
  if (at == std::string_view::npos) return 0;
  uint64_t number = 0;
  for (const char digit : line.substr(at + key.size())) {
    if (digit < '0' || digit > '9') break;
    number = 10 * number + static_cast<uint64_t>(digit - '0');
  }
  return number;
}

// When QEMU says that an event was, on our clock; now, where that makes no sense.
uint64_t StampNs(std::string_view line, uint64_t not_before_ns) {
  const uint64_t now_ns = NowNs();
  const uint64_t ago_ns = ClockNs(CLOCK_REALTIME) -
                          NumberAfter(line, "\"seconds\": ") * 1'000'000'000 -
                          NumberAfter(line, "\"microseconds\": ") * 1000;
  return ago_ns <= now_ns - not_before_ns ? now_ns - ago_ns : now_ns;
}

}  // namespace

QmpPause::QmpPause(int fd, std::shared_ptr<StatePipe> pipe, std::shared_ptr<MappedMemory> page,
                   pid_t process_id)
    : fd_(fd), pipe_(std::move(pipe)), page_(std::move(page)), saver_(process_id) {}

PauseOutcome QmpPause::Take(const PauseRequest& request,
                            const std::function<void()>& while_stopped,
                            const std::function<void()>& meanwhile) {
  if (!pipe_) throw Failure("ERR_USAGE_CLOSED", "the pauser is closed", "Use it before close().");
  refusal_.clear();
  state_.clear();
  is_answer_owed_ = false;
  is_held_ = false;
  const size_t usual_state_bytes = std::exchange(usual_state_bytes_, 0);
  begun_ns_ = NowNs();
  if (StandsAlready()) return PauseOutcome::kNotRunning;
  times_ = PauseTimes{};
  is_stopped_ = false;
  is_resumed_ = false;
  std::optional<Urgent> urgent(std::in_place);
  StepAside aside(saver_);
  pipe_->CloseGate(usual_state_bytes);
  MarkHeld(true);
  begun_ns_ = NowNs();
  if (!Write(request.save, request.timeout_ms)) {
    pipe_->OpenGate();
    MarkHeld(false);
    // It may have said why before it went.
    ReadAll();
    return PauseOutcome::kLost;
  }
  is_answer_owed_ = true;
  Wait answer = Wait::kAnswered;
  switch (WaitUntilHeld(request, aside, &answer)) {
    case Hold::kHeld:
      break;
    case Hold::kAnswered:
      pipe_->OpenGate();
      return Finish(request,
                    answer == Wait::kRefused ? PauseOutcome::kSaveRefused : PauseOutcome::kRanOn,
                    request.timeout_ms);
    case Hold::kTimeout:
      pipe_->OpenGate();
      return Finish(request, PauseOutcome::kTimeout, request.rescue_ms);
    case Hold::kLost:
      pipe_->OpenGate();
      MarkHeld(false);
      return PauseOutcome::kLost;
  }
  is_held_ = true;
  times_.held_ns = SinceNs();
  if (!is_stopped_) {
    pipe_->OpenGate();
    return Finish(request, PauseOutcome::kNotRunning, request.timeout_ms);
  }
  MarkHeld(true);
  const auto let_go = [&] {
    const bool is_heard = ReadAll();
    Wait early;
    if (FindAnswer(request.save_id, &early)) is_answer_owed_ = false;
    const bool has_run_on = !is_answer_owed_ || is_resumed_ || !is_heard;
    const bool is_whole = pipe_->OpenGate();
    MarkHeld(true);
    urgent.reset();
    aside.Return();
    const bool is_late = SinceNs() - times_.held_ns > kHeldNsMax;
    return has_run_on || !is_whole || is_late ? PauseOutcome::kRanOn : PauseOutcome::kDone;
  };
  PauseOutcome outcome;
  try {
    while_stopped();
    times_.captured_ns = SinceNs();
    outcome = let_go();
  } catch (...) {
    let_go();
    Finish(request, PauseOutcome::kDone, request.rescue_ms);
    throw;
  }
  const bool is_reader_needed = !pipe_->is_wide();
  if (is_reader_needed) outcome = Finish(request, outcome, request.timeout_ms);
  try {
    meanwhile();
  } catch (...) {
    if (!is_reader_needed) Finish(request, outcome, request.rescue_ms);
    throw;
  }
  if (!is_reader_needed) outcome = Finish(request, outcome, request.timeout_ms);
  if (outcome == PauseOutcome::kDone) usual_state_bytes_ = state_.size();
  return outcome;
}

bool QmpPause::StandsAlready() {
  is_stopped_ = false;
  is_resumed_ = false;
  ReadAll();
  std::string_view line;
  while (NextLine(&line)) NoteEvent(line);
  return is_stopped_ && !is_resumed_;
}

// Nothing holds QEMU any more: waits until it is done.
PauseOutcome QmpPause::Finish(const PauseRequest& request, PauseOutcome outcome, int timeout_ms) {
  if (is_answer_owed_) {
    Wait saved = WaitForSave(request, timeout_ms);
    if (saved == Wait::kTimeout && outcome != PauseOutcome::kTimeout) {
      outcome = PauseOutcome::kTimeout;
      saved = WaitForSave(request, request.rescue_ms);
    }
    // The word stays, too: a guardian goes on reading.
    if (saved == Wait::kTimeout) return PauseOutcome::kTimeout;
    if (saved == Wait::kRefused && outcome == PauseOutcome::kDone) {
      outcome = PauseOutcome::kSaveRefused;
    }
    if (saved == Wait::kLost) outcome = PauseOutcome::kLost;
  }
  MarkHeld(false);
  if (outcome == PauseOutcome::kLost) return outcome;
  pipe_->Read(&state_, request.state_bytes_max + 1);
  if (times_.resumed_ns == 0) times_.resumed_ns = SinceNs();
  // Of the end of the save we hear later than QEMU goes on.
  if (times_.saved_ns == 0 || times_.saved_ns > times_.resumed_ns) {
    times_.saved_ns = times_.resumed_ns;
  }
  return is_stopped_ && !is_resumed_ ? Resume(request, outcome) : outcome;
}

// Lets a machine run on that QEMU stopped for us and left so. `outcome` is what is reported when
// that works, or when somebody else has paused it.
PauseOutcome QmpPause::Resume(const PauseRequest& request, PauseOutcome outcome) {
  const std::string why = refusal_;
  if (!Write(request.status, request.timeout_ms)) return PauseOutcome::kLost;
  Wait told = WaitFor(request.status_id, request.rescue_ms);
  const bool is_ours = Contains(answer_, "\"save-vm\"");
  if (told == Wait::kAnswered && is_ours) {
    MarkStopped(1);
    if (!Write(request.cont, request.timeout_ms)) return PauseOutcome::kLost;
    told = WaitFor(request.cont_id, request.rescue_ms);
    times_.resumed_ns = SinceNs();
    // Else the word stays: should this process end now, the guardian goes on trying.
    if (told == Wait::kAnswered || told == Wait::kRefused) MarkStopped(0);
  }
  switch (told) {
    case Wait::kAnswered:
      refusal_ = why;
      return outcome;
    case Wait::kRefused:
      return PauseOutcome::kContRefused;
    case Wait::kTimeout:
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

QmpPause::Hold QmpPause::WaitUntilHeld(const PauseRequest& request, StepAside& aside,
                                       Wait* answer) {
  const uint64_t deadline_ns = NowNs() + static_cast<uint64_t>(request.timeout_ms) * 1'000'000;
  for (;;) {
    // Asked first: what QEMU said before it opened the pipe can be read when this is known.
    const bool is_open = pipe_->Noticed().opened;
    const bool is_lost = !ReadAll();
    if (FindAnswer(request.save_id, answer)) {
      is_answer_owed_ = false;
      return Hold::kAnswered;
    }
    if (is_lost) return Hold::kLost;
    if (is_open) return Hold::kHeld;
    const uint64_t now_ns = NowNs();
    if (now_ns >= deadline_ns) return Hold::kTimeout;
    pollfd ready[] = {{fd_, POLLIN, 0}, {pipe_->watch(), POLLIN, 0}};
    poll(ready, 2, static_cast<int>((deadline_ns - now_ns) / 1'000'000) + 1);
    aside.IfInTheWay();
  }
}

QmpPause::Wait QmpPause::WaitForSave(const PauseRequest& request, int timeout_ms) {
  const uint64_t deadline_ns = NowNs() + static_cast<uint64_t>(timeout_ms) * 1'000'000;
  for (;;) {
    if (times_.saved_ns == 0 && pipe_->Noticed().closed) times_.saved_ns = SinceNs();
    Wait answer;
    if (FindAnswer(request.save_id, &answer)) {
      is_answer_owed_ = false;
      return answer;
    }
    const uint64_t now_ns = NowNs();
    if (now_ns >= deadline_ns) return Wait::kTimeout;
    const auto left_ms = static_cast<int>((deadline_ns - now_ns) / 1'000'000) + 1;
    pollfd ready[] = {{fd_, POLLIN, 0},
                      {times_.saved_ns == 0 ? pipe_->watch() : -1, POLLIN, 0},
                      {pipe_->is_wide() ? -1 : pipe_->descriptor(), POLLIN, 0}};
    poll(ready, 3, std::min(left_ms, kReadEveryMs));
    if (ready[0].revents == 0 && ready[1].revents == 0) {
      pipe_->Read(&state_, request.state_bytes_max + 1);
    }
    if (ready[0].revents == 0) continue;
    if (buffer_.size() > kForeignBytesMax) return Wait::kLost;
    const ssize_t got = Read();
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return Wait::kLost;
  }
}

QmpPause::Wait QmpPause::WaitFor(std::string_view id, int timeout_ms) {
  const uint64_t deadline_ns = NowNs() + static_cast<uint64_t>(timeout_ms) * 1'000'000;
  for (;;) {
    Wait answer;
    if (FindAnswer(id, &answer)) return answer;
    const uint64_t now_ns = NowNs();
    if (now_ns >= deadline_ns) return Wait::kTimeout;
    pollfd ready{fd_, POLLIN, 0};
    const auto left_ms = static_cast<int>((deadline_ns - now_ns) / 1'000'000) + 1;
    if (poll(&ready, 1, left_ms) <= 0) continue;
    if (buffer_.size() > kForeignBytesMax) return Wait::kLost;
    const ssize_t got = Read();
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return Wait::kLost;
  }
}

bool QmpPause::FindAnswer(std::string_view id, Wait* answer) {
  std::string_view line;
  while (NextLine(&line)) {
    NoteEvent(line);
    if (!Contains(line, id)) continue;
    const bool is_refused = IsRefusal(line);
    if (is_refused) refusal_ = std::string(line);
    answer_ = std::string(line);
    Claim(line);
    *answer = is_refused ? Wait::kRefused : Wait::kAnswered;
    return true;
  }
  return false;
}

bool QmpPause::ReadAll() {
  for (;;) {
    if (buffer_.size() > kForeignBytesMax) return false;
    const ssize_t got = Read();
    if (got > 0) continue;
    return got < 0 && (errno == EAGAIN || errno == EINTR);
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

void QmpPause::NoteEvent(std::string_view line) {
  // Of a pause, the first STOP and the first RESUME after it count: what follows is its user's.
  const bool is_over = is_held_ && is_resumed_;
  if (!is_over && IsEvent(line, "STOP")) {
    is_stopped_ = true;
    is_resumed_ = false;
    times_.stopped_ns = StampNs(line, begun_ns_) - begun_ns_;
  } else if (is_stopped_ && !is_resumed_ && IsEvent(line, "RESUME")) {
    is_resumed_ = true;
    times_.resumed_ns = StampNs(line, begun_ns_ + times_.stopped_ns) - begun_ns_;
  }
}

void QmpPause::Close() {
  pipe_.reset();
  page_.reset();
  saver_ = ThreadPlace(0);
}

std::string QmpPause::TakeForeign() {
  scanned_ = 0;
  return std::exchange(buffer_, std::string());
}

uint64_t QmpPause::SinceNs() const { return NowNs() - begun_ns_; }

void QmpPause::MarkStopped(uint32_t value) {
  if (!page_) return;
  auto* word = reinterpret_cast<std::atomic<uint32_t>*>(page_->data());
  word->store(value, std::memory_order_seq_cst);
}

void QmpPause::MarkHeld(bool is_held) {
  if (!page_) return;
  auto* words = reinterpret_cast<std::atomic<uint64_t>*>(page_->data());
  words[kHeldSinceWord].store(is_held ? NowNs() : 0, std::memory_order_seq_cst);
}

}  // namespace romulus
