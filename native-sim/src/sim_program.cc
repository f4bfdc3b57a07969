#include "sim_program.h"

#include <bit>
#include <cstring>

#include "sim_kv.h"

namespace romulus::sim {

namespace {

static_assert(std::endian::native == std::endian::little, "state is saved as it lies in memory");

constexpr std::array<const char*, 6> kNames = {"idle",    "counter", "random",
                                               "hotspot", "stream",  "kv"};
constexpr uint64_t kCounters = 8;
constexpr uint64_t kWordsPerPage = kPageBytes / 8;
constexpr uint64_t kWordsPerLine = 8;
constexpr uint64_t kLinesPerPage = kWordsPerPage / kWordsPerLine;
// A prime above every possible page count, so that multiplying by it permutes the pages.
constexpr uint64_t kScatter = 2654435761ULL;

uint64_t* Words(uint8_t* memory, uint64_t page) {
  return reinterpret_cast<uint64_t*>(memory + page * kPageBytes);
}

// Uniform in [0, bound), by the high half of a product: no division in the step.
uint64_t Below(uint64_t random, uint64_t bound) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(random) * bound) >> 64);
}

uint64_t DigestOf(uint64_t start, std::string_view data) {
  uint64_t digest = start;
  for (const char c : data) digest = Mix64(digest ^ static_cast<uint8_t>(c));
  return digest;
}

}  // namespace

std::optional<Workload> WorkloadByName(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); i++) {
    if (name == kNames[i]) return static_cast<Workload>(i);
  }
  return std::nullopt;
}

const char* NameOf(Workload workload) { return kNames[static_cast<size_t>(workload)]; }

std::string CheckConfig(const ProgramConfig& config) {
  if (static_cast<size_t>(config.workload) >= kNames.size()) return "the workload is unknown";
  if (config.memory_bytes < kMemoryBytesMin || config.memory_bytes > kMemoryBytesLargest ||
      config.memory_bytes % kPageBytes != 0) {
    return "memory must be a multiple of 4096 from 16 MiB to 16 GiB";
  }
  if (config.disk_bytes < kDiskBytesMin || config.disk_bytes > kDiskBytesMax ||
      config.disk_bytes % kDiskBlockBytes != 0) {
    return "the disk must be a multiple of 4096 from 64 KiB to 1 TiB";
  }
  if (config.beacons > kStepsPerMillion) return "beacons must be from 0 to 1000000";
  return "";
}

void WriteEmitHeader(uint8_t* header, uint8_t kind, EmitOp op, uint32_t stream, uint64_t seq,
                     uint64_t step, uint64_t input_seq) {
  header[0] = kind;
  header[1] = static_cast<uint8_t>(op);
  header[2] = header[3] = 0;
  std::memcpy(header + 4, &stream, 4);
  std::memcpy(header + 8, &seq, 8);
  std::memcpy(header + 16, &step, 8);
  std::memcpy(header + 24, &input_seq, 8);
}

Program::Program(const ProgramConfig& config, uint8_t* ram, uint8_t* disk, Outputs* outputs)
    : config_(config),
      ram_(ram),
      disk_(disk),
      outputs_(outputs),
      pages_(config.memory_bytes / kPageBytes),
      octaves_(static_cast<uint32_t>(std::bit_width(pages_) - 1)) {
  if (config.workload == Workload::kKv) {
    kv_ = std::make_unique<KvServer>(ram, config.memory_bytes);
  }
}

Program::~Program() = default;

void Program::Step(const Input* input) {
  registers_.step++;
  if (input != nullptr) {
    Consume(*input);
  } else {
    StepWorkload();
  }
  registers_.beacon_phase += config_.beacons;
  if (registers_.beacon_phase >= kStepsPerMillion) {
    registers_.beacon_phase -= kStepsPerMillion;
    Beacon();
  }
}

void Program::StepWorkload() {
  switch (config_.workload) {
    case Workload::kIdle: return StepIdle();
    case Workload::kCounter: return StepCounter();
    case Workload::kRandom: return StepRandom();
    case Workload::kHotspot: return StepHotspot();
    case Workload::kStream: return StepStream();
    case Workload::kKv:
      if (busy()) {
        kv_->Continue(registers_.pending_slot - 1);
        EmitReply();
      } else {
        const uint64_t digest = kv_->InternalOperation(Mix64(config_.seed + registers_.step * kGolden));
        registers_.hash = Mix64(registers_.hash ^ digest);
      }
      return;
  }
}

void Program::StepIdle() { registers_.hash = Mix64(registers_.hash ^ registers_.step); }

void Program::StepCounter() {
  const uint64_t page = registers_.step % kCounters * (pages_ / kCounters);
  uint64_t* word = Words(ram_, page);
  *word += 1;
  registers_.hash = Mix64(registers_.hash ^ *word);
}

void Program::Touch(uint64_t page, uint64_t word, uint64_t salt) {
  uint64_t* target = Words(ram_, page) + word;
  *target = Mix64(*target ^ salt);
  registers_.hash = Mix64(registers_.hash ^ *target);
}

// One line of 64 bytes in a page chosen uniformly.
void Program::StepRandom() {
  const uint64_t salt = config_.seed + registers_.step * kGolden;
  const uint64_t random = Mix64(salt);
  const uint64_t page = Below(random, pages_);
  const uint64_t line = Mix64(random) % kLinesPerPage;
  for (uint64_t i = 0; i < kWordsPerLine; i++) Touch(page, line * kWordsPerLine + i, salt + i);
}

// One word in a page whose rank follows Zipf's law with exponent 1, in steps of octaves: integers
// only, because a libm would not give the same bits on every host.
void Program::StepHotspot() {
  const uint64_t salt = config_.seed + registers_.step * kGolden;
  const uint64_t random = Mix64(salt);
  const uint64_t octave = Below(random, octaves_);
  const uint64_t first = (uint64_t{1} << octave) - 1;
  const uint64_t second = Mix64(random);
  const uint64_t rank = first + Below(second, uint64_t{1} << octave);
  const uint64_t page = (rank * kScatter + config_.seed % pages_) % pages_;
  Touch(page, Mix64(second) % kWordsPerPage, salt);
}

// Rewrites a whole page, then the next.
void Program::StepStream() {
  const uint64_t salt = config_.seed + registers_.step * kGolden;
  uint64_t* words = Words(ram_, (registers_.step - 1) % pages_);
  uint64_t fold = 0;
  for (uint64_t i = 0; i < kWordsPerPage; i++) {
    words[i] = Mix64(words[i] ^ (salt + i));
    fold ^= words[i];
  }
  registers_.hash = Mix64(registers_.hash ^ fold);
}

void Program::Consume(const Input& input) {
  registers_.input_seq = input.seq;
  const uint64_t place = static_cast<uint64_t>(input.op) << 32 | input.stream;
  registers_.hash = Mix64(registers_.hash ^ DigestOf(place, input.data));
  if (kv_ != nullptr) {
    kv_->Consume(input);
    EmitReply();
  } else {
    Emit(input.op == InputOp::kClose ? EmitOp::kClose : EmitOp::kData, input.stream, {});
  }
}

void Program::EmitReply() {
  const KvReply& reply = kv_->reply();
  registers_.hash = Mix64(registers_.hash ^ DigestOf(reply.stream, reply.data));
  // Even an empty one: consuming an input must show in the output, with its step.
  if (!reply.data.empty() || !reply.close) Emit(EmitOp::kData, reply.stream, reply.data);
  if (reply.close) Emit(EmitOp::kClose, reply.stream, {});
  registers_.pending_slot = reply.more ? reply.slot + 1 : 0;
}

void Program::Beacon() {
  registers_.beacon_count++;
  if (registers_.beacon_count % kBeaconsPerDiskWrite == 0) WriteDiskBlock();
  char data[8];
  std::memcpy(data, &registers_.hash, sizeof data);
  Emit(EmitOp::kBeacon, 0, {data, sizeof data});
}

void Program::WriteDiskBlock() {
  registers_.disk_writes++;
  const uint64_t salt = Mix64(config_.seed ^ registers_.disk_writes);
  const uint64_t offset = Below(salt, config_.disk_bytes / kDiskBlockBytes) * kDiskBlockBytes;
  auto* words = reinterpret_cast<uint64_t*>(disk_ + offset);
  for (uint64_t i = 0; i < kDiskBlockBytes / 8; i++) {
    words[i] = Mix64(words[i] ^ (registers_.hash + i));
  }
  registers_.hash = Mix64(registers_.hash ^ words[0]);
  outputs_->OnDiskWrite(offset, disk_ + offset, kDiskBlockBytes);
}

void Program::Emit(EmitOp op, uint32_t stream, std::string_view data) {
  registers_.emit_seq++;
  frame_.resize(kEmitHeaderBytes + data.size());
  WriteEmitHeader(frame_.data(), kKindEmit, op, stream, registers_.emit_seq, registers_.step,
                  registers_.input_seq);
  if (!data.empty()) std::memcpy(frame_.data() + kEmitHeaderBytes, data.data(), data.size());
  outputs_->OnEmit(op, registers_.emit_seq, frame_.data(), frame_.size());
}

}  // namespace romulus::sim
