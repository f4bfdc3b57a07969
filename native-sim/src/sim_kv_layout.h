// The structures of the kv workload as they lie in the machine's RAM (picture in sim_kv.h). Private
// to sim_kv.cc and sim_kv_store.cc.
#pragma once

#include <array>
#include <cstdint>

#include "sim_kv.h"
#include "staged_pages.h"

namespace romulus::sim {

constexpr uint64_t kStreamTableOffset = kPageBytes;
constexpr uint64_t kStreamBuffersOffset = 4 * kPageBytes;
constexpr uint64_t kBucketsOffset = kStreamBuffersOffset + kStreamsMax * kStreamBufferBytes;
constexpr uint64_t kMemoryBytesPerBucket = 1024;

constexpr uint32_t kSizeClasses = 9;  // 64 bytes to 16 KiB
constexpr uint64_t kSmallestEntryBytes = 64;

constexpr uint32_t kOffsetBits = 40;
constexpr uint64_t kOffsetMask = (uint64_t{1} << kOffsetBits) - 1;
constexpr uint64_t kFlushNumberMax = (uint64_t{1} << (64 - kOffsetBits)) - 1;
// A chain longer than this is a ring made by damage, not by hashing.
constexpr uint64_t kChainMax = 100'000;

constexpr uint64_t kInternalKeysMax = 100'000;
constexpr uint64_t kInternalBytesPerKey = 1024;
constexpr size_t kInternalValueBytes = 96;

// Thrown when something read from RAM cannot be: the command at hand fails, the machine runs on.
struct DamagedMemory {};

struct KvServer::Superblock {
  uint64_t flush_number;
  uint64_t keys;
  uint64_t heap_used;  // bytes ever taken off the heap's end
  uint64_t commands;
  std::array<uint64_t, kSizeClasses> free_heads;  // offsets of free entries, 0: none
};

struct KvServer::StreamSlot {
  uint32_t stream;
  uint32_t open;
  uint32_t buffered_bytes;
  uint32_t reserved[13];
};

struct KvServer::Entry {
  uint64_t next;
  uint32_t key_bytes;
  uint32_t value_bytes;
  uint32_t size_class;
  uint32_t reserved;
};

}  // namespace romulus::sim
