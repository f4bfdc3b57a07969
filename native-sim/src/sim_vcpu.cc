// The vCPU thread: runs instructions at the set rate, takes inputs, holds back when a reader or the
// world's acknowledgements lag, and gives way to the I/O thread between any two instructions.
#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <mutex>

#include "sim_boundary.h"
#include "sim_machine.h"

namespace romulus::sim {

namespace {

constexpr uint64_t kNsPerSecond = 1'000'000'000;
// Paced instructions run in bursts at least this far apart: sleeping costs more than stepping.
constexpr uint64_t kSliceNs = 500'000;
// A machine that got no processor for longer than this does not make up for it.
constexpr uint64_t kCatchUpNsMax = 50'000'000;
// Between two looks at the clock.
constexpr uint64_t kInstructionsPerSlice = 256;
constexpr size_t kFlushBytes = 32'768;

}  // namespace

void Machine::OnEmit(EmitOp, uint64_t, const uint8_t* frame, size_t bytes) {
  ring_.Push(frame, bytes);
  net_.Append(static_cast<uint32_t>(bytes), nullptr, 0, frame, bytes);
}

void Machine::OnDiskWrite(uint64_t offset, const uint8_t* data, uint32_t bytes) {
  uint8_t prefix[8];
  for (int i = 0; i < 8; i++) prefix[i] = static_cast<uint8_t>(offset >> (56 - 8 * i));
  disk_line_.Append(bytes, prefix, sizeof prefix, data, bytes);
}

void Machine::FlushLines() {
  const uint64_t now_ns = MonotonicNs();
  net_.Flush(now_ns);
  disk_line_.Flush(now_ns);
  const bool waits = net_.buffered() + disk_line_.buffered() > 0;
  if ((waits || net_.broken() || disk_line_.broken()) && !pump_asked_ && on_blocked_) {
    pump_asked_ = true;
    on_blocked_();
  }
}

void Machine::RestartPacing() {
  paced_from_ns_ = MonotonicNs();
  paced_from_step_ = load_steps_;
}

bool Machine::StepInput() {
  if (inputs_.empty() || program_.busy() || !RingAllowsInput()) return false;
  const Input input = std::move(inputs_.front());
  inputs_.pop_front();
  inputs_bytes_ -= input.data.size();
  program_.Step(&input);
  return true;
}

// When the ring of un-acknowledged emits keeps the vCPU from its own work: until when to wait,
// UINT64_MAX until something changes; 0: it does not.
uint64_t Machine::HeldByRing(uint64_t now_ns) {
  if (!ring_.above_half()) ring_stall_waived_ = false;
  if (!ring_.above_three_quarters()) {
    ring_stalled_since_ns_ = 0;
    return 0;
  }
  // A server's answers must not be dropped, so a server waits for as long as it takes.
  if (settings_.program.workload == Workload::kKv && (ring_.holds_data() || program_.busy())) {
    return UINT64_MAX;
  }
  // Without a reader nobody can acknowledge.
  if (!net_.attached() || ring_stall_waived_) return 0;
  if (ring_stalled_since_ns_ == 0) {
    ring_stalled_since_ns_ = now_ns;
    statistics_.ring_stalls++;
  }
  if (now_ns - ring_stalled_since_ns_ < kRingStallNsMax) {
    return ring_stalled_since_ns_ + kRingStallNsMax;
  }
  ring_stalled_since_ns_ = 0;
  ring_stall_waived_ = true;
  return 0;
}

// How many paced instructions may run now; when 0, `next_ns` says when to look again.
uint64_t Machine::InstructionsDue(uint64_t now_ns, uint64_t& next_ns) {
  uint64_t rate = settings_.rate;
  if (rate == 0) {
    if (settings_.program.workload == Workload::kKv) {
      next_ns = UINT64_MAX;
      return 0;
    }
    if (settings_.program.workload != Workload::kIdle) return kInstructionsPerSlice;
    rate = kIdleRate;
  }
  const auto due_at = [&](uint64_t now) {
    return static_cast<uint64_t>(static_cast<unsigned __int128>(now - paced_from_ns_) * rate /
                                 kNsPerSecond);
  };
  uint64_t done = load_steps_ - paced_from_step_;
  uint64_t due = due_at(now_ns);
  const uint64_t catch_up = static_cast<unsigned __int128>(kCatchUpNsMax) * rate / kNsPerSecond + 1;
  if (due > done + catch_up) {
    RestartPacing();
    paced_from_ns_ -= std::min(paced_from_ns_, kCatchUpNsMax);
    done = 0;
    due = catch_up;
  }
  if (due > done) return std::min(due - done, kInstructionsPerSlice);
  const uint64_t next_due_ns =
      paced_from_ns_ +
      static_cast<uint64_t>(static_cast<unsigned __int128>(done + 1) * kNsPerSecond / rate) + 1;
  next_ns = std::max(next_due_ns, now_ns + kSliceNs);
  return 0;
}

uint64_t Machine::RunSlice(uint64_t now_ns) {
  if (!running_) return UINT64_MAX;
  if (net_.over_bound() || disk_line_.over_bound()) {
    FlushLines();
    return UINT64_MAX;  // the I/O thread wakes us when the reader read or was given up
  }
  if (resend_wanted_ && inputs_.empty()) {
    resend_wanted_ = false;
    OpenNetLine();
  }
  const auto at_limit = [&] {
    if (program_.registers().step != stop_at_step_) return false;
    stop_at_step_ = UINT64_MAX;
    holders_.insert(stop_at_holder_);
    BecomeStopped();
    return true;
  };
  const auto interrupted = [&] {
    return boundary_wanted_.load(std::memory_order_relaxed) != 0;
  };
  if (at_limit()) return 0;
  // Inputs first, whatever the rate; bounded, so that the clock is looked at.
  uint64_t stepped = 0;
  while (stepped < kInstructionsPerSlice && !interrupted()) {
    if (program_.busy() && RingAllowsInput()) {
      program_.Step(nullptr);
    } else if (!StepInput()) {
      break;
    }
    stepped++;
    if (net_.buffered() > kFlushBytes) FlushLines();
    if (at_limit()) return 0;
  }
  if (stepped > 0) FlushLines();
  if (interrupted()) return 0;
  if (stepped == kInstructionsPerSlice) return 0;

  const uint64_t held_until_ns = HeldByRing(now_ns);
  if (held_until_ns != 0) return held_until_ns;
  uint64_t next_ns = 0;
  const uint64_t due = InstructionsDue(now_ns, next_ns);
  if (due == 0) return next_ns;
  const bool ring_matters = settings_.program.workload == Workload::kKv ||
                            (net_.attached() && !ring_stall_waived_);
  for (uint64_t i = 0; i < due; i++) {
    program_.Step(nullptr);
    load_steps_++;
    if (at_limit()) return 0;
    if ((ring_matters && ring_.above_three_quarters()) || interrupted()) break;
  }
  if (net_.buffered() + disk_line_.buffered() > 0) FlushLines();
  return 0;
}

void Machine::RunVcpu() {
  // The default slack of 50 us would show in every pacing sleep.
  prctl(PR_SET_TIMERSLACK, 1000);
  std::unique_lock<Lock> lock(lock_);
  while (!quitting_) {
    const uint64_t next_ns = RunSlice(MonotonicNs());
    if (boundary_wanted_.load() != 0) {
      lock.unlock();
      // The other side takes the lock before it withdraws its wish.
      while (boundary_wanted_.load() != 0) sched_yield();
      lock.lock();
      continue;  // what the slice said about waiting may be out of date
    }
    if (next_ns == 0) continue;
    if (next_ns == UINT64_MAX) {
      wake_.Wait(lock_);
    } else {
      wake_.WaitUntil(lock_, next_ns);
    }
  }
}

}  // namespace romulus::sim
