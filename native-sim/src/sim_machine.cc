// What the I/O thread asks of the machine; the vCPU's loop is sim_vcpu.cc.
#include "sim_machine.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include <cstring>

#include "failure.h"
#include "sim_boundary.h"

namespace romulus::sim {

namespace {

std::shared_ptr<MappedMemory> OpenRam(const MachineSettings& settings) {
  const uint64_t bytes = settings.program.memory_bytes;
  return settings.ram_fd < 0 ? MappedMemory::Create("romulus-sim-ram", bytes)
                             : MappedMemory::MapFd(settings.ram_fd, bytes, true);
}

std::shared_ptr<MappedMemory> OpenDisk(const MachineSettings& settings) {
  const uint64_t bytes = settings.program.disk_bytes;
  if (settings.disk_fd >= 0) return MappedMemory::MapFd(settings.disk_fd, bytes, true);
  if (settings.disk_path.empty()) return MappedMemory::Create("romulus-sim-disk", bytes);
  const Fd file(open(settings.disk_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  struct stat facts {};
  if (!file.valid() || fstat(file.get(), &facts) != 0 ||
      (static_cast<uint64_t>(facts.st_size) < bytes &&
       ftruncate(file.get(), static_cast<off_t>(bytes)) != 0)) {
    throw Failure::System("ERR_DISK_OPEN", "cannot open the disk " + settings.disk_path,
                          "Check that the path is writable and has room.");
  }
  return MappedMemory::MapFd(file.get(), bytes, true);
}

}  // namespace

uint64_t MonotonicNs() {
  timespec now {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

Machine::Machine(const MachineSettings& settings)
    : settings_(settings),
      ram_(OpenRam(settings)),
      disk_(OpenDisk(settings)),
      program_(settings.program, ram_->data(), disk_->data(), this) {
  if (settings.mprotect_tracker) tracker_.Arm(ram_->data(), ram_->bytes());
}

Machine::~Machine() {
  {
    Boundary boundary(*this);
    quitting_ = true;
  }
  if (vcpu_.joinable()) vcpu_.join();
  tracker_.Disarm();
}

void Machine::Start() {
  vcpu_ = std::thread([this] { RunVcpu(); });
}

StopReport Machine::Report() const {
  return {net_.frames(), disk_line_.frames(), program_.registers().step};
}

void Machine::BecomeRunning() {
  running_ = true;
  holders_.clear();
  RestartPacing();
  if (line_open_due_) OpenNetLine();
}

void Machine::BecomeStopped() {
  running_ = false;
  FlushLines();
}

bool Machine::Stop(uint64_t holder, StopReport& report) {
  Boundary boundary(*this);
  if (refuses_stop_ && running_) return false;
  if (running_) BecomeStopped();
  holders_.insert(holder);
  report = Report();
  return true;
}

bool Machine::Continue() {
  Boundary boundary(*this);
  if (awaiting_state_) return false;
  if (!running_) BecomeRunning();
  return true;
}

void Machine::Release(uint64_t holder) {
  Boundary boundary(*this);
  if (stop_at_holder_ == holder) stop_at_step_ = UINT64_MAX;
  const bool held = holders_.erase(holder) > 0;
  if (held && holders_.empty() && !running_ && !awaiting_state_) BecomeRunning();
}

bool Machine::StopAt(uint64_t holder, uint64_t step) {
  Boundary boundary(*this);
  if (program_.registers().step > step) return false;
  stop_at_step_ = step;
  stop_at_holder_ = holder;
  return true;
}

std::vector<uint8_t> Machine::Save() {
  Boundary boundary(*this);
  if (running_) return {};
  return EncodeDeviceState(settings_.program, settings_.rate, program_.registers(), ring_);
}

std::string Machine::Load(const std::vector<uint8_t>& state) {
  Boundary boundary(*this);
  if (running_) return "the machine runs";
  Registers registers;
  std::string why =
      DecodeDeviceState(state, settings_.program, settings_.rate, registers, ring_);
  if (!why.empty()) return why;
  program_.set_registers(registers);
  inputs_.clear();
  inputs_bytes_ = 0;
  awaiting_state_ = false;
  line_open_due_ = true;
  return "";
}

void Machine::SetRate(uint64_t rate) {
  Boundary boundary(*this);
  settings_.rate = rate;
  RestartPacing();
}

void Machine::SetBusy(bool busy) {
  Boundary boundary(*this);
  refuses_stop_ = busy;
}

MachineStatus Machine::Status() {
  Boundary boundary(*this);
  MachineStatistics statistics = statistics_;
  statistics.beacons_dropped = ring_.dropped();
  return {running_,         program_.registers(), settings_.rate,   net_.frames(),
          disk_line_.frames(), ring_.count(),     ring_.used(),     inputs_.size(),
          net_.attached(),  disk_line_.attached(), refuses_stop_,   statistics};
}

void Machine::AttachNet(Fd socket) {
  Boundary boundary(*this);
  net_.Attach(std::move(socket));
  // The world sends again what was not consumed.
  inputs_.clear();
  inputs_bytes_ = 0;
  resend_wanted_ = false;
  line_open_due_ = true;
  if (running_) OpenNetLine();
}

void Machine::AttachDisk(Fd socket) {
  Boundary boundary(*this);
  disk_line_.Attach(std::move(socket));
}

void Machine::DetachNet() {
  Boundary boundary(*this);
  net_.Detach();
}

void Machine::DetachDisk() {
  Boundary boundary(*this);
  disk_line_.Detach();
}

void Machine::OpenNetLine() {
  if (!net_.attached()) return;
  line_open_due_ = false;
  const Registers& registers = program_.registers();
  uint8_t header[kEmitHeaderBytes];
  WriteEmitHeader(header, kKindLineOpen, EmitOp::kBeacon, 0, ring_.first_seq(), registers.step,
                  registers.input_seq);
  net_.Append(sizeof header, nullptr, 0, header, sizeof header);
  ring_.ForEach([this](const uint8_t* frame, size_t bytes) {
    net_.Append(static_cast<uint32_t>(bytes), nullptr, 0, frame, bytes);
  });
  FlushLines();
}

void Machine::Receive(std::vector<FromWorld> frames) {
  Boundary boundary(*this);
  for (FromWorld& frame : frames) {
    if (frame.hello) {
      // A world that begins, or that missed something: it learns where we are, and sends again.
      inputs_.clear();
      inputs_bytes_ = 0;
      resend_wanted_ = true;
      continue;
    }
    if (frame.acknowledge) {
      // An acknowledgement of what was never emitted is nonsense; believing it would lose output.
      if (frame.acknowledged_seq <= program_.registers().emit_seq) {
        ring_.Acknowledge(frame.acknowledged_seq);
      }
      continue;
    }
    const uint64_t last = inputs_.empty() ? program_.registers().input_seq : inputs_.back().seq;
    if (frame.input.seq != last + 1) {
      statistics_.inputs_dropped++;
      continue;
    }
    if (inputs_.size() >= kInputQueueFramesMax ||
        inputs_bytes_ + frame.input.data.size() > kInputQueueBytesMax) {
      statistics_.inputs_dropped++;
      resend_wanted_ = true;
      continue;
    }
    inputs_bytes_ += frame.input.data.size();
    inputs_.push_back(std::move(frame.input));
  }
}

int Machine::PumpLines(bool& net_waits, bool& disk_waits) {
  Boundary boundary(*this);
  FlushLines();
  const uint64_t now_ns = MonotonicNs();
  int again_ms = -1;
  for (Line* line : {&net_, &disk_line_}) {
    if (line->broken()) line->Detach();
    if (line->blocked_since_ns() == 0) continue;
    const uint64_t waited_ns = now_ns - line->blocked_since_ns();
    // A reader that is merely slow is let be: only what holds the machine up is given up.
    if (!line->over_bound()) continue;
    if (waited_ns >= kLineStallNsMax) {
      statistics_.line_stalls++;
      line->Detach();
    } else {
      again_ms = static_cast<int>((kLineStallNsMax - waited_ns) / 1'000'000) + 1;
    }
  }
  net_waits = net_.buffered() > 0;
  disk_waits = disk_line_.buffered() > 0;
  pump_asked_ = net_waits || disk_waits;
  return again_ms;
}

std::vector<uint8_t> Machine::CollectDirty() {
  Boundary boundary(*this);
  std::vector<uint8_t> bitmap(tracker_.BitmapBytes(), 0);
  tracker_.Collect(bitmap.data());
  return bitmap;
}

}  // namespace romulus::sim
