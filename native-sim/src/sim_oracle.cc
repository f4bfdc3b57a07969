// The oracle: the simulated machine's program on memory of its own, without time, threads or
// sockets. From the seed and the record of which input came at which step it computes RAM, disk
// and every emitted frame, for comparison with a machine that lived through a failover.
//
// Ownership: the handle owns the program and shares the two mappings with their JavaScript Memory
// objects, whichever goes first. Threads: everything in the thread of its environment; RunTo is
// synchronous and bounded by the caller's slice.
#include <deque>
#include <map>
#include <memory>

#include "areas.h"
#include "border.h"
#include "memory.h"
#include "sim_program.h"

namespace romulus {

namespace {

constexpr napi_type_tag kOracleTag = {0x524f4d554c555353ULL, 0x494d4f5241434c45ULL};
// Of frames kept for comparison; a longer run takes and forgets them on the way.
constexpr size_t kFramesBytesMax = size_t{512} << 20;
constexpr size_t kScheduledInputsMax = 10'000'000;

class Oracle : private sim::Outputs {
 public:
  Oracle(const sim::ProgramConfig& config, std::shared_ptr<MappedMemory> ram,
         std::shared_ptr<MappedMemory> disk)
      : ram_(std::move(ram)),
        disk_(std::move(disk)),
        program_(config, ram_->data(), disk_->data(), this) {}

  const sim::Registers& registers() const { return program_.registers(); }
  uint64_t first_frame_seq() const { return first_frame_seq_; }
  const std::deque<std::vector<uint8_t>>& frames() const { return frames_; }

  void Schedule(uint64_t step, sim::Input input) {
    const uint64_t last = inputs_.empty() ? registers().input_seq : inputs_.rbegin()->second.seq;
    const uint64_t last_step = inputs_.empty() ? registers().step : inputs_.rbegin()->first;
    if (step <= last_step || input.seq != last + 1) {
      throw Failure("ERR_USAGE_ORACLE_INPUT",
                    "input " + std::to_string(input.seq) + " at step " + std::to_string(step) +
                        " does not follow input " + std::to_string(last) + " at step " +
                        std::to_string(last_step),
                    "Schedule inputs in order, one a step, ahead of the oracle.");
    }
    if (inputs_.size() >= kScheduledInputsMax) {
      throw Failure("ERR_LIMIT_ORACLE_INPUTS", "too many inputs are scheduled",
                    "Run the oracle further before scheduling more.");
    }
    inputs_.emplace(step, std::move(input));
  }

  void RunTo(uint64_t step, uint64_t steps_max) {
    while (registers().step < step && steps_max-- > 0) {
      if (frames_bytes_ > kFramesBytesMax) {
        throw Failure("ERR_LIMIT_ORACLE_FRAMES", "the oracle keeps more frames than it may",
                      "Take frames with frames() and let go of them with forget().");
      }
      const auto next = inputs_.begin();
      if (next == inputs_.end() || next->first != registers().step + 1) {
        program_.Step(nullptr);
        continue;
      }
      if (program_.busy()) {
        throw Failure("ERR_USAGE_ORACLE_INPUT",
                      "input " + std::to_string(next->second.seq) + " cannot be consumed at step " +
                          std::to_string(next->first) + ": the one before is not done",
                      "The record of inputs is wrong: take the steps from the machine's emits.");
      }
      const sim::Input input = std::move(next->second);
      inputs_.erase(next);
      program_.Step(&input);
    }
  }

  void Forget(uint64_t through_seq) {
    while (!frames_.empty() && first_frame_seq_ <= through_seq) {
      frames_bytes_ -= frames_.front().size();
      frames_.pop_front();
      first_frame_seq_++;
    }
  }

 private:
  void OnEmit(sim::EmitOp, uint64_t, const uint8_t* frame, size_t bytes) override {
    frames_.emplace_back(frame, frame + bytes);
    frames_bytes_ += bytes;
  }
  void OnDiskWrite(uint64_t, const uint8_t*, uint32_t) override {}

  std::shared_ptr<MappedMemory> ram_;
  std::shared_ptr<MappedMemory> disk_;
  sim::Program program_;
  std::map<uint64_t, sim::Input> inputs_;  // by step
  std::deque<std::vector<uint8_t>> frames_;
  uint64_t first_frame_seq_ = 1;
  size_t frames_bytes_ = 0;
};

Oracle& Held(const Napi::Value& value) {
  if (!value.IsExternal() || !value.As<Napi::External<Oracle>>().CheckTypeTag(&kOracleTag)) {
    throw Failure("ERR_USAGE_ORACLE", "this is not the handle of a SimOracle",
                  "Pass the handle that simOracleCreate gave.");
  }
  return *value.As<Napi::External<Oracle>>().Data();
}

uint64_t SeedOf(const Napi::Value& value) {
  bool lossless = false;
  const uint64_t seed = value.IsBigInt() ? value.As<Napi::BigInt>().Uint64Value(&lossless) : 0;
  if (!lossless) {
    throw Failure("ERR_USAGE_SEED", "the seed is no whole number from 0 to 2^64 - 1",
                  "Pass the seed as a BigInt in that range.");
  }
  return seed;
}

// simOracleCreate(workload, seed, beacons, ram, disk): ram and disk are handles of writable
// Memory objects of zeros, kept alive by the oracle.
Napi::Value Create(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const std::string name = info[0].ToString().Utf8Value();
    const auto workload = sim::WorkloadByName(name);
    if (!workload) {
      throw Failure("ERR_USAGE_WORKLOAD", "the workload '" + name + "' is unknown",
                    "Use idle, counter, random, hotspot, stream or kv.");
    }
    std::shared_ptr<MappedMemory> ram = UnwrapMemory(info[3]);
    std::shared_ptr<MappedMemory> disk = UnwrapMemory(info[4]);
    if (!ram->writable() || !disk->writable()) {
      throw Failure("ERR_USAGE_READ_ONLY", "the oracle's memory is mapped read-only",
                    "Pass writable Memory objects.");
    }
    const uint64_t beacons = WholeNumber(info[2], "beacons");
    sim::ProgramConfig config;
    config.workload = *workload;
    config.seed = SeedOf(info[1]);
    config.beacons = beacons > sim::kStepsPerMillion ? UINT32_MAX : static_cast<uint32_t>(beacons);
    config.memory_bytes = ram->bytes();
    config.disk_bytes = disk->bytes();
    const std::string wrong = sim::CheckConfig(config);
    if (!wrong.empty()) {
      throw Failure("ERR_USAGE_MACHINE", wrong, "Use the settings of the machine to compare with.");
    }
    auto handle = Napi::External<Oracle>::New(
        info.Env(), new Oracle(config, std::move(ram), std::move(disk)),
        [](Napi::Env, Oracle* oracle) { delete oracle; });
    handle.TypeTag(&kOracleTag);
    return handle;
  });
}

// simOracleInput(handle, step, seq, op, stream, data): copies data.
void Input(const Napi::CallbackInfo& info) {
  AtBorder(info.Env(), [&] {
    const uint64_t op = WholeNumber(info[3], "op");
    const uint64_t stream = WholeNumber(info[4], "stream");
    if (op > static_cast<uint64_t>(sim::InputOp::kClose) || stream > UINT32_MAX ||
        !info[5].IsTypedArray()) {
      throw Failure("ERR_USAGE_ORACLE_INPUT", "the input is malformed",
                    "Pass op 0 to 2, a 32-bit stream and bytes.");
    }
    const auto data = info[5].As<Napi::Uint8Array>();
    if (data.ByteLength() > sim::kInputDataBytesMax) {
      throw Failure("ERR_USAGE_ORACLE_INPUT", "the input is too long",
                    "An input carries at most 16384 bytes.");
    }
    sim::Input input;
    input.seq = WholeNumber(info[2], "seq");
    input.op = static_cast<sim::InputOp>(op);
    input.stream = static_cast<uint32_t>(stream);
    input.data.assign(reinterpret_cast<const char*>(data.Data()), data.ByteLength());
    Held(info[0]).Schedule(WholeNumber(info[1], "step"), std::move(input));
  });
}

// simOracleRunTo(handle, step, stepsMax): blocks for at most that many steps.
void RunTo(const Napi::CallbackInfo& info) {
  AtBorder(info.Env(), [&] {
    Held(info[0]).RunTo(WholeNumber(info[1], "step"), WholeNumber(info[2], "stepsMax"));
  });
}

// simOracleRegisters(handle): { step, emitSeq, inputSeq, diskWrites, hash }.
Napi::Value RegistersOf(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&]() -> Napi::Value {
    const sim::Registers& registers = Held(info[0]).registers();
    Napi::Object result = Napi::Object::New(info.Env());
    result.Set("step", static_cast<double>(registers.step));
    result.Set("emitSeq", static_cast<double>(registers.emit_seq));
    result.Set("inputSeq", static_cast<double>(registers.input_seq));
    result.Set("diskWrites", static_cast<double>(registers.disk_writes));
    result.Set("hash", Napi::BigInt::New(info.Env(), registers.hash));
    return result;
  });
}

// simOracleFrames(handle, fromSeq, countMax): copies of the frames kept, in order.
Napi::Value Frames(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&]() -> Napi::Value {
    const Oracle& oracle = Held(info[0]);
    const uint64_t from = WholeNumber(info[1], "fromSeq");
    const uint64_t count_max = WholeNumber(info[2], "countMax");
    if (from < oracle.first_frame_seq()) {
      throw Failure("ERR_USAGE_ORACLE_FRAMES",
                    "frames below " + std::to_string(oracle.first_frame_seq()) + " are not kept",
                    "Ask for frames from 1 on that were not forgotten.");
    }
    Napi::Array result = Napi::Array::New(info.Env());
    const auto& frames = oracle.frames();
    uint32_t count = 0;
    for (uint64_t i = from - oracle.first_frame_seq(); i < frames.size() && count < count_max; i++) {
      const std::vector<uint8_t>& frame = frames[static_cast<size_t>(i)];
      result.Set(count++, Napi::Buffer<uint8_t>::Copy(info.Env(), frame.data(), frame.size()));
    }
    return result;
  });
}

// simOracleForget(handle, throughSeq): lets go of frames that were compared.
void Forget(const Napi::CallbackInfo& info) {
  AtBorder(info.Env(), [&] { Held(info[0]).Forget(WholeNumber(info[1], "throughSeq")); });
}

}  // namespace

void InitSimOracle(Napi::Env env, Napi::Object exports) {
  exports.Set("simOracleCreate", Napi::Function::New(env, Create));
  exports.Set("simOracleInput", Napi::Function::New(env, Input));
  exports.Set("simOracleRunTo", Napi::Function::New(env, RunTo));
  exports.Set("simOracleRegisters", Napi::Function::New(env, RegistersOf));
  exports.Set("simOracleFrames", Napi::Function::New(env, Frames));
  exports.Set("simOracleForget", Napi::Function::New(env, Forget));
}

}  // namespace romulus
