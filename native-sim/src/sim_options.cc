#include "sim_options.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>

namespace romulus::sim {

namespace {

constexpr uint64_t kDefaultMemoryBytes = uint64_t{256} << 20;
constexpr uint64_t kDefaultDiskBytes = uint64_t{16} << 20;
constexpr uint64_t kDefaultRate = 20'000;
constexpr uint64_t kFramesPerSecond = 500;
// What an unlimited rate comes to, roughly.
constexpr uint64_t kUnlimitedRate = 10'000'000;

// A decimal number, with K, M or G for binary multiples when `multiples`.
std::optional<uint64_t> NumberIn(const char* text, bool multiples) {
  const char* end = text + std::strlen(text);
  uint64_t value = 0;
  const auto result = std::from_chars(text, end, value);
  if (result.ec != std::errc()) return std::nullopt;
  if (result.ptr == end) return value;
  if (!multiples || result.ptr + 1 != end) return std::nullopt;
  const char* at = std::strchr("KMG", *result.ptr);
  if (at == nullptr) return std::nullopt;
  const unsigned shift = *at == 'K' ? 10 : *at == 'M' ? 20 : 30;
  if (value > (UINT64_MAX >> shift)) return std::nullopt;
  return value << shift;
}

}  // namespace

const char kUsage[] =
    "romulus-sim: a simulated machine in a process of its own\n"
    "\n"
    "  --socket PATH        control socket; PATH.net, PATH.disk and PATH.tracker stand beside it\n"
    "  --memory BYTES       16M to 16G, a multiple of 4096 (256M)\n"
    "  --workload NAME      idle, counter, random, hotspot, stream or kv (random)\n"
    "  --seed N             what the program computes depends on it (1)\n"
    "  --rate N             steps a second, 0: no limit; kv: its own load (20000; idle 250; kv 0)\n"
    "  --beacons N          output frames per million steps (about 500 a second at the rate)\n"
    "  --disk BYTES         size of the disk (16M)\n"
    "  --disk-fd N          use this descriptor as the disk\n"
    "  --disk-file PATH     use this file as the disk\n"
    "  --ram-fd N           use this descriptor as RAM\n"
    "  --incoming           wait for `load` and `cont`\n"
    "  --paused             wait for `cont`\n"
    "  --tracker mprotect   track dirty pages here and serve PATH.tracker\n"
    "  --quit-with-parent PID  end when the starter, process PID, ends, until the first `cont`\n"
    "\n"
    "Example: romulus-sim --socket /tmp/vm.sock --memory 256M --workload hotspot --seed 7\n";

uint32_t DefaultBeacons(Workload workload, uint64_t rate) {
  if (workload == Workload::kIdle) return kStepsPerMillion;
  if (rate == 0) rate = workload == Workload::kKv ? kFramesPerSecond * 100 : kUnlimitedRate;
  const uint64_t beacons = kFramesPerSecond * kStepsPerMillion / rate;
  return static_cast<uint32_t>(std::clamp<uint64_t>(beacons, 1, kStepsPerMillion));
}

std::string ParseOptions(int argc, char** argv, Options& options) {
  ProgramConfig& program = options.machine.program;
  program.memory_bytes = kDefaultMemoryBytes;
  program.disk_bytes = kDefaultDiskBytes;
  program.seed = 1;
  std::optional<uint64_t> rate;
  std::optional<uint64_t> beacons;
  for (int i = 1; i < argc; i++) {
    const std::string name = argv[i];
    if (name == "--help") {
      options.help = true;
      return "";
    }
    if (name == "--incoming" || name == "--paused") {
      (name == "--incoming" ? options.incoming : options.paused) = true;
      continue;
    }
    if (i + 1 == argc) return name + " is unknown or needs a value; see --help";
    const char* value = argv[++i];
    const auto bad = [&](const char* accepted) {
      return name + " " + value + ": give " + accepted;
    };
    if (name == "--socket") {
      options.socket_path = value;
    } else if (name == "--disk-file") {
      options.machine.disk_path = value;
    } else if (name == "--workload") {
      const auto workload = WorkloadByName(value);
      if (!workload) return bad("idle, counter, random, hotspot, stream or kv");
      program.workload = *workload;
    } else if (name == "--tracker") {
      if (std::strcmp(value, "mprotect") != 0) return bad("mprotect");
      options.machine.mprotect_tracker = true;
    } else if (name == "--memory") {
      const auto bytes = NumberIn(value, true);
      if (!bytes || *bytes < kMemoryBytesMin || *bytes > kMemoryBytesLargest ||
          *bytes % kPageBytes != 0) {
        return bad("a multiple of 4096 bytes from 16M to 16G");
      }
      program.memory_bytes = *bytes;
    } else if (name == "--disk") {
      const auto bytes = NumberIn(value, true);
      if (!bytes || *bytes < kDiskBytesMin || *bytes > kDiskBytesMax ||
          *bytes % kDiskBlockBytes != 0) {
        return bad("a multiple of 4096 bytes from 64K to 1024G");
      }
      program.disk_bytes = *bytes;
    } else if (name == "--seed") {
      const auto seed = NumberIn(value, false);
      if (!seed) return bad("a whole number from 0 to 2^64 - 1");
      program.seed = *seed;
    } else if (name == "--rate") {
      rate = NumberIn(value, false);
      if (!rate || *rate > kRateMax) return bad("steps a second from 0 to 1000000000");
    } else if (name == "--beacons") {
      beacons = NumberIn(value, false);
      if (!beacons || *beacons > kStepsPerMillion) return bad("frames per million steps, 0 to 1000000");
    } else if (name == "--quit-with-parent") {
      const auto parent = NumberIn(value, false);
      if (!parent || *parent == 0 || *parent > INT32_MAX) return bad("the starter's process id");
      options.parent = static_cast<int>(*parent);
    } else if (name == "--ram-fd" || name == "--disk-fd") {
      const auto fd = NumberIn(value, false);
      if (!fd || *fd > 1'000'000) return bad("the number of an open descriptor");
      (name == "--ram-fd" ? options.machine.ram_fd : options.machine.disk_fd) =
          static_cast<int>(*fd);
    } else {
      return name + " is unknown; see --help";
    }
  }
  if (options.socket_path.empty()) return "--socket PATH is missing";
  if (options.machine.disk_fd >= 0 && !options.machine.disk_path.empty()) {
    return "--disk-fd and --disk-file exclude each other";
  }
  const Workload workload = program.workload;
  const uint64_t usual_rate = workload == Workload::kIdle ? kIdleRate
                              : workload == Workload::kKv ? 0
                                                          : kDefaultRate;
  options.machine.rate = rate.value_or(usual_rate);
  program.beacons = beacons ? static_cast<uint32_t>(*beacons)
                            : DefaultBeacons(workload, options.machine.rate);
  return "";
}

}  // namespace romulus::sim
