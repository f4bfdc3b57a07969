// The kv workload: a RESP2 key-value server whose every byte of state lies in the machine's RAM.
// Redis protocol specification: https://redis.io/docs/latest/develop/reference/protocol-spec/
//
//   RAM        0  superblock (4 KiB): flush number, keys, heap use, free lists, counters
//           4096  stream table: 128 x 64 bytes (stream id, in use, buffered bytes)
//          16384  stream buffers: 128 x 32 KiB, received and not yet executed bytes
//   4 MiB + 16384  buckets: u64 each, a power of two, at least one per KiB of RAM; the upper 24
//                  bits are the flush number at which the word was written, the lower 40 the heap
//                  offset of the first entry. Another flush number means "empty".
//           then  heap: entries in size classes of 64 << c bytes, free lists per class.
//   entry: u64 next (offset, 0: none), u32 keyBytes, u32 valueBytes, u32 class, u32 0, key, value
//
// RAM of zeros is an empty server, so there is nothing to initialise. What is read back from RAM is
// checked before it is used as an offset or a length: a machine restored from damaged memory answers
// with errors, it does not crash.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace romulus::sim {

struct Input;

constexpr size_t kKeyBytesMax = 512;
constexpr size_t kValueBytesMax = 8192;
constexpr size_t kArgumentsMax = 16;
constexpr size_t kStreamsMax = 128;
constexpr size_t kStreamBufferBytes = 32'768;
// Of one command, as received; half of the buffer, so that the other half can take the next input.
constexpr size_t kCommandBytesMax = 16'384;
// After so many reply bytes or commands the rest waits for the next step.
constexpr size_t kReplyBytesPerStep = 2048;
constexpr size_t kCommandsPerStep = 64;
// No step emits more than this: the budget, one reply over it, and the words around it.
constexpr size_t kReplyBytesMax = kReplyBytesPerStep + kValueBytesMax + 1024;

// What the last Consume or Continue did.
struct KvReply {
  uint32_t stream = 0;
  uint64_t slot = 0;
  std::string data;
  bool close = false;
  bool more = false;  // complete commands may be left in the stream's buffer
};

class KvServer {
 public:
  KvServer(uint8_t* ram, uint64_t memory_bytes);

  void Consume(const Input& input);
  void Continue(uint64_t slot);
  const KvReply& reply() const { return reply_; }
  // One operation of the machine's own load on its own keys; returns a digest of what it read.
  uint64_t InternalOperation(uint64_t random);

 private:
  struct Superblock;
  struct StreamSlot;
  struct Entry;
  // Where a word that names an entry lies: a bucket or the `next` of another entry.
  struct Link {
    uint64_t* word;
    bool bucket;
  };

  Superblock& super();
  StreamSlot& slot_at(uint64_t slot);
  uint8_t* buffer_of(uint64_t slot);
  int64_t SlotOf(uint32_t stream);
  void OpenStream(uint32_t stream);
  void RunCommands(uint64_t slot);
  void Execute(const std::vector<std::string_view>& arguments);
  void Get(std::string_view key);
  void Set(std::string_view key, std::string_view value);
  void Increment(std::string_view key);
  void Information();

  Entry* EntryAt(uint64_t offset);
  uint64_t Target(const Link& link);
  void Point(const Link& link, uint64_t offset);
  Link Find(std::string_view key, Entry** found);
  // False when the heap is full.
  bool Store(std::string_view key, std::string_view value);
  bool Erase(std::string_view key);
  uint64_t Allocate(uint32_t size_class);
  void Free(uint64_t offset);
  static std::string_view KeyOf(const Entry& entry);
  static std::string_view ValueOf(const Entry& entry);

  uint8_t* ram_;
  uint64_t bucket_mask_;
  uint64_t buckets_offset_;
  uint64_t heap_offset_;
  uint64_t heap_bytes_;
  KvReply reply_;  // scratch, rebuilt by every call
};

}  // namespace romulus::sim
