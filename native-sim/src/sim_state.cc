// The device state as bytes. Fixed size, everything at a fixed place, so that the states of two
// neighbouring checkpoints differ only where something changed.
#include <cstring>

#include "sim_machine.h"

namespace romulus::sim {

namespace {

constexpr uint64_t kMagic = 0x315354534d495352ULL;  // "RSIMSTS1"
constexpr uint32_t kVersion = 1;

struct StateHeader {
  uint64_t magic;
  uint32_t version;
  uint32_t total_bytes;
  uint32_t workload;
  uint32_t beacons;
  uint64_t seed;
  uint64_t memory_bytes;
  uint64_t disk_bytes;
  uint64_t rate;
  Registers registers;
  RingState ring;
  uint64_t digest;  // of all words before it
};
static_assert(sizeof(StateHeader) == 56 + 64 + 32 + 8);
static_assert(sizeof(StateHeader) <= kPageBytes);

uint64_t DigestOf(const StateHeader& header) {
  uint64_t words[offsetof(StateHeader, digest) / 8];
  std::memcpy(words, &header, sizeof words);
  uint64_t digest = kMagic;
  for (const uint64_t word : words) digest = Mix64(digest ^ word) + kGolden;
  return digest;
}

}  // namespace

std::vector<uint8_t> EncodeDeviceState(const ProgramConfig& config, uint64_t rate,
                                       const Registers& registers, const EmitRing& ring) {
  StateHeader header = {};
  header.magic = kMagic;
  header.version = kVersion;
  header.total_bytes = kDeviceStateBytes;
  header.workload = static_cast<uint32_t>(config.workload);
  header.beacons = config.beacons;
  header.seed = config.seed;
  header.memory_bytes = config.memory_bytes;
  header.disk_bytes = config.disk_bytes;
  header.rate = rate;
  header.registers = registers;
  header.ring = ring.state();
  header.digest = DigestOf(header);
  std::vector<uint8_t> state(kDeviceStateBytes, 0);
  std::memcpy(state.data(), &header, sizeof header);
  std::memcpy(state.data() + kPageBytes, ring.bytes().data(), kRingBytes);
  return state;
}

std::string DecodeDeviceState(const std::vector<uint8_t>& state, const ProgramConfig& config,
                              uint64_t& rate, Registers& registers, EmitRing& ring) {
  if (state.size() != kDeviceStateBytes) return "the device state has the wrong size";
  StateHeader header;
  std::memcpy(&header, state.data(), sizeof header);
  if (header.magic != kMagic) return "these bytes are no device state of a simulated machine";
  if (header.version != kVersion) return "the device state is of another version";
  if (header.digest != DigestOf(header)) return "the device state is damaged: its digest is wrong";
  if (header.workload != static_cast<uint32_t>(config.workload) || header.seed != config.seed ||
      header.beacons != config.beacons || header.memory_bytes != config.memory_bytes ||
      header.disk_bytes != config.disk_bytes) {
    return "the device state belongs to a machine with another workload, seed, beacons or size";
  }
  if (header.rate > kRateMax) return "the device state names an impossible rate";
  if (!ring.Restore(header.ring, state.data() + kPageBytes, header.registers.emit_seq)) {
    return "the device state's ring of emits is damaged";
  }
  rate = header.rate;
  registers = header.registers;
  return "";
}

}  // namespace romulus::sim
