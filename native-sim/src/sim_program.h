// The program that the simulated machine runs: a pure function of (seed, which input came at which
// step). Shared by the machine and by the oracle; test/native/sim-reference.ts is an independent
// second implementation of the workloads, so that the two cannot be wrong together.
//
// One step is one instruction. Steps read before they write, so that a stale or torn page makes the
// run diverge for ever. State = Registers + RAM + disk; nothing else here changes between steps.
// A memory of zeros and registers of zeros are the state before step 1.
//
// Not here: time, pacing, sockets, the ring of un-acknowledged emits (sim_machine.h).
// Threads: none of its own; the caller makes sure that one thread at a time is inside.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "staged_pages.h"

namespace romulus::sim {

class KvServer;

enum class Workload : uint32_t { kIdle, kCounter, kRandom, kHotspot, kStream, kKv };

std::optional<Workload> WorkloadByName(std::string_view name);
const char* NameOf(Workload workload);

constexpr uint64_t kMemoryBytesMin = uint64_t{16} << 20;
constexpr uint64_t kMemoryBytesLargest = uint64_t{16} << 30;
constexpr uint64_t kDiskBytesMin = uint64_t{64} << 10;
constexpr uint64_t kDiskBytesMax = uint64_t{1} << 40;
constexpr uint32_t kDiskBlockBytes = 4096;
constexpr uint32_t kStepsPerMillion = 1'000'000;
// Every so many beacons a disk block is rewritten, just before the beacon goes out.
constexpr uint64_t kBeaconsPerDiskWrite = 4;
constexpr size_t kInputDataBytesMax = 16'384;

// What makes two machines the same. `beacons`: frames per million steps, 0..1,000,000.
struct ProgramConfig {
  Workload workload = Workload::kRandom;
  uint32_t beacons = 0;
  uint64_t seed = 0;
  uint64_t memory_bytes = 0;
  uint64_t disk_bytes = 0;
};

// Empty when the configuration is sound, else one sentence.
std::string CheckConfig(const ProgramConfig& config);

// Saved byte for byte in the device state: fixed layout, little-endian like every host we run on.
struct Registers {
  uint64_t step = 0;
  uint64_t hash = 0;       // depends on everything that was ever read
  uint64_t emit_seq = 0;   // last one used
  uint64_t input_seq = 0;  // last one consumed
  uint64_t beacon_phase = 0;
  uint64_t beacon_count = 0;
  uint64_t disk_writes = 0;
  uint64_t pending_slot = 0;  // kv: 1 + slot of the stream with commands left to run, else 0
};
static_assert(sizeof(Registers) == 64);

// Ops and kinds of the port protocol (docs/ARCHITECTURE.md).
enum class InputOp : uint8_t { kOpen = 0, kData = 1, kClose = 2 };
enum class EmitOp : uint8_t { kBeacon = 0, kData = 1, kClose = 2 };
constexpr uint8_t kKindEmit = 1;
constexpr uint8_t kKindLineOpen = 2;
constexpr uint8_t kKindInput = 1;
constexpr uint8_t kKindAcknowledge = 2;
constexpr uint8_t kKindHello = 3;
constexpr size_t kEmitHeaderBytes = 32;
constexpr size_t kInputHeaderBytes = 16;

struct Input {
  uint64_t seq = 0;
  InputOp op = InputOp::kData;
  uint32_t stream = 0;
  std::string data;
};

// Where the program's outputs go. Called from inside Step; the bytes are valid for the call only.
class Outputs {
 public:
  virtual ~Outputs() = default;
  virtual void OnEmit(EmitOp op, uint64_t seq, const uint8_t* frame, size_t bytes) = 0;
  // The block is already in the disk's memory.
  virtual void OnDiskWrite(uint64_t offset, const uint8_t* data, uint32_t bytes) = 0;
};

// Finalizer of splitmix64 (Steele, Lea, Flood 2014).
inline uint64_t Mix64(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}
constexpr uint64_t kGolden = 0x9e3779b97f4a7c15ULL;

void WriteEmitHeader(uint8_t* header, uint8_t kind, EmitOp op, uint32_t stream, uint64_t seq,
                     uint64_t step, uint64_t input_seq);

class Program {
 public:
  // `ram` and `disk` are borrowed and must outlive the program; `outputs` too.
  Program(const ProgramConfig& config, uint8_t* ram, uint8_t* disk, Outputs* outputs);
  ~Program();

  const ProgramConfig& config() const { return config_; }
  const Registers& registers() const { return registers_; }
  void set_registers(const Registers& registers) { registers_ = registers; }

  // Executes instruction registers().step + 1. With an input that instruction consumes it, which
  // must be the next in order and must not come while `busy()`.
  void Step(const Input* input);
  // The last input's commands are not all done: the next step goes on with them.
  bool busy() const { return registers_.pending_slot != 0; }

 private:
  void StepWorkload();
  void StepIdle();
  void StepCounter();
  void StepRandom();
  void StepHotspot();
  void StepStream();
  void Consume(const Input& input);
  void Touch(uint64_t page, uint64_t word, uint64_t salt);
  void Beacon();
  void WriteDiskBlock();
  void Emit(EmitOp op, uint32_t stream, std::string_view data);
  // Sends what the kv server answered.
  void EmitReply();

  ProgramConfig config_;
  Registers registers_;
  uint8_t* ram_;
  uint8_t* disk_;
  Outputs* outputs_;
  uint64_t pages_;
  uint32_t octaves_;  // of the zipf ranks: floor(log2(pages))
  std::unique_ptr<KvServer> kv_;
  std::vector<uint8_t> frame_;  // scratch of Emit
};

}  // namespace romulus::sim
