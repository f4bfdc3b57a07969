// The simulated machine: RAM, disk and port around a Program, and the vCPU thread that runs it.
//
// Threads: the vCPU thread and one other, the I/O thread, which calls everything public. One lock
// guards all state. The vCPU holds it while it steps; the I/O thread announces that it wants in
// (`boundary_wanted_`), the vCPU lets go after the instruction at hand. So whatever the I/O thread
// sees or changes, it sees and changes at an instruction boundary, and a stop takes one instruction
// and one lock hand-over. Pacing, back-pressure and who is connected change when instructions run,
// never what they compute.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "lock.h"
#include "mapped_memory.h"
#include "mprotect_tracker.h"
#include "sim_line.h"
#include "sim_program.h"
#include "sim_ring.h"

namespace romulus::sim {

// Inputs received and not consumed; the world keeps within a quarter of it (ARCHITECTURE).
constexpr size_t kInputQueueFramesMax = 1024;
constexpr size_t kInputQueueBytesMax = size_t{8} << 20;
// How long the machine may hold its breath when the world acknowledges nothing and the ring is
// nearly full, before it runs on and lets its oldest beacons go.
constexpr uint64_t kRingStallNsMax = 500'000'000;
constexpr uint64_t kRateMax = 1'000'000'000;
constexpr uint64_t kIdleRate = 250;

struct MachineSettings {
  ProgramConfig program;
  uint64_t rate = 0;  // steps a second; 0: as fast as it goes (idle: kIdleRate; kv: no own load)
  int ram_fd = -1;    // -1: a memfd of its own
  int disk_fd = -1;
  std::string disk_path;  // used when disk_fd is -1; empty: a memfd
  bool mprotect_tracker = false;
};

struct StopReport {
  uint64_t frames;
  uint64_t disk_writes;
  uint64_t step;
};

struct MachineStatistics {
  uint64_t beacons_dropped = 0;
  uint64_t inputs_dropped = 0;
  uint64_t line_stalls = 0;  // readers given up because they did not read
  uint64_t ring_stalls = 0;
};

struct MachineStatus {
  bool running;
  Registers registers;
  uint64_t rate;
  uint64_t frames;
  uint64_t disk_writes;
  uint64_t ring_frames;
  uint64_t ring_bytes;
  uint64_t inputs_queued;
  bool net_connected;
  bool disk_connected;
  bool busy;
  MachineStatistics statistics;
};

class Machine : private Outputs {
 public:
  // Maps memory and disk. Throws Failure.
  explicit Machine(const MachineSettings& settings);
  ~Machine() override;

  // Called (in either thread) when a line begins to wait for its socket or broke: PumpLines is due.
  void set_on_blocked(std::function<void()> on_blocked) { on_blocked_ = std::move(on_blocked); }
  // An incoming machine: nothing runs before a state was loaded. Before Start.
  void AwaitState() { awaiting_state_ = true; }
  // Starts the vCPU thread, stopped.
  void Start();

  // --- all below: I/O thread only ---

  // `holder` is remembered: when it lets go without Continue the machine runs on by itself.
  // False when the machine refuses to be stopped now.
  bool Stop(uint64_t holder, StopReport& report);
  // False when there is nothing to run yet (an incoming machine before its state was loaded).
  bool Continue();
  void Release(uint64_t holder);
  // Stops by itself in front of instruction `step` + 1, held by `holder`. False: it is past that.
  bool StopAt(uint64_t holder, uint64_t step);
  // Empty when the machine runs: its state would be torn.
  std::vector<uint8_t> Save();
  // Empty when loaded, else why not; then nothing has changed.
  std::string Load(const std::vector<uint8_t>& state);
  void SetRate(uint64_t rate);
  void SetBusy(bool busy);
  MachineStatus Status();

  void AttachNet(Fd socket);
  void AttachDisk(Fd socket);
  void DetachNet();
  void DetachDisk();
  int net_fd() const { return net_.fd(); }
  int disk_socket_fd() const { return disk_line_.fd(); }
  // What came from the world, many frames at a time; malformed ones are counted and dropped.
  struct FromWorld {
    bool hello;
    bool acknowledge;
    uint64_t acknowledged_seq;
    Input input;
  };
  void Receive(std::vector<FromWorld> frames);
  // Writes what waits and gives up readers that are stuck. Milliseconds until it must be called
  // again, -1: when a socket becomes writable. `net_waits`, `disk_waits`: bytes are left.
  int PumpLines(bool& net_waits, bool& disk_waits);
  // Dirty pages since the last time, one bit each.
  std::vector<uint8_t> CollectDirty();

  const MachineSettings& settings() const { return settings_; }
  const MappedMemory& ram() const { return *ram_; }
  const MappedMemory& disk() const { return *disk_; }

 private:
  class Boundary;

  void OnEmit(EmitOp op, uint64_t seq, const uint8_t* frame, size_t bytes) override;
  void OnDiskWrite(uint64_t offset, const uint8_t* data, uint32_t bytes) override;

  void RunVcpu();
  // Runs instructions until something else must happen. Returns when to look again (0: at once).
  uint64_t RunSlice(uint64_t now_ns);
  bool StepInput();
  bool RingAllowsInput() const { return !ring_.above_three_quarters(); }
  uint64_t HeldByRing(uint64_t now_ns);
  uint64_t InstructionsDue(uint64_t now_ns, uint64_t& next_ns);
  void RestartPacing();
  void FlushLines();
  void OpenNetLine();
  void BecomeRunning();
  void BecomeStopped();
  StopReport Report() const;

  MachineSettings settings_;
  std::shared_ptr<MappedMemory> ram_;
  std::shared_ptr<MappedMemory> disk_;
  MprotectTracker tracker_;
  Program program_;
  std::function<void()> on_blocked_;

  Lock lock_;
  Condition wake_;
  std::atomic<int> boundary_wanted_{0};
  std::thread vcpu_;

  // Guarded by lock_.
  bool running_ = false;
  bool quitting_ = false;
  bool awaiting_state_ = false;  // incoming, not loaded
  bool refuses_stop_ = false;
  std::set<uint64_t> holders_;
  uint64_t stop_at_step_ = UINT64_MAX;
  uint64_t stop_at_holder_ = 0;
  Line net_;
  Line disk_line_;
  bool pump_asked_ = false;  // the I/O thread knows that a line waits for its socket
  bool line_open_due_ = false;
  bool resend_wanted_ = false;  // inputs were dropped for lack of room
  EmitRing ring_;
  std::deque<Input> inputs_;
  size_t inputs_bytes_ = 0;
  uint64_t paced_from_ns_ = 0;
  uint64_t paced_from_step_ = 0;
  uint64_t load_steps_ = 0;  // paced instructions executed, inputs excluded
  uint64_t ring_stalled_since_ns_ = 0;
  bool ring_stall_waived_ = false;
  MachineStatistics statistics_;
};

// The device state: one page of registers and configuration, then the ring.
constexpr size_t kDeviceStateBytes = kPageBytes + kRingBytes;
std::vector<uint8_t> EncodeDeviceState(const ProgramConfig& config, uint64_t rate,
                                       const Registers& registers, const EmitRing& ring);
// Empty when `registers`, `rate` and `ring` were filled, else one sentence, and nothing changed.
std::string DecodeDeviceState(const std::vector<uint8_t>& state, const ProgramConfig& config,
                              uint64_t& rate, Registers& registers, EmitRing& ring);

uint64_t MonotonicNs();

}  // namespace romulus::sim
