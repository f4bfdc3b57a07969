// The hash table of the kv workload: chained buckets over a heap of size classes, all in RAM.
#include <bit>
#include <cstring>

#include "sim_kv.h"
#include "sim_kv_layout.h"
#include "sim_program.h"

namespace romulus::sim {

namespace {

uint64_t HashOf(std::string_view key) {
  uint64_t hash = kGolden;
  for (const char c : key) hash = Mix64(hash ^ static_cast<uint8_t>(c));
  return hash;
}

uint64_t ClassBytes(uint32_t size_class) { return kSmallestEntryBytes << size_class; }

}  // namespace

KvServer::KvServer(uint8_t* ram, uint64_t memory_bytes) : ram_(ram) {
  static_assert(sizeof(Superblock) <= kPageBytes);
  static_assert(kStreamsMax * sizeof(StreamSlot) <= kStreamBuffersOffset - kStreamTableOffset);
  static_assert(sizeof(Entry) + kKeyBytesMax + kValueBytesMax <=
                kSmallestEntryBytes << (kSizeClasses - 1));
  const uint64_t buckets = std::bit_floor(memory_bytes / kMemoryBytesPerBucket);
  buckets_offset_ = kBucketsOffset;
  bucket_mask_ = buckets - 1;
  heap_offset_ = buckets_offset_ + buckets * sizeof(uint64_t);
  heap_bytes_ = memory_bytes - heap_offset_;
}

std::string_view KvServer::KeyOf(const Entry& entry) {
  return {reinterpret_cast<const char*>(&entry + 1), entry.key_bytes};
}

std::string_view KvServer::ValueOf(const Entry& entry) {
  return {reinterpret_cast<const char*>(&entry + 1) + entry.key_bytes, entry.value_bytes};
}

KvServer::Entry* KvServer::EntryAt(uint64_t offset) {
  if (offset < heap_offset_ || offset % kSmallestEntryBytes != heap_offset_ % kSmallestEntryBytes ||
      offset > heap_offset_ + heap_bytes_ - kSmallestEntryBytes) {
    throw DamagedMemory();
  }
  auto* entry = reinterpret_cast<Entry*>(ram_ + offset);
  if (entry->size_class >= kSizeClasses || entry->key_bytes > kKeyBytesMax ||
      entry->value_bytes > kValueBytesMax ||
      ClassBytes(entry->size_class) > heap_offset_ + heap_bytes_ - offset ||
      sizeof(Entry) + entry->key_bytes + entry->value_bytes > ClassBytes(entry->size_class)) {
    throw DamagedMemory();
  }
  return entry;
}

uint64_t KvServer::Target(const Link& link) {
  if (!link.bucket) return *link.word;
  return *link.word >> kOffsetBits == super().flush_number ? *link.word & kOffsetMask : 0;
}

void KvServer::Point(const Link& link, uint64_t offset) {
  *link.word = link.bucket ? super().flush_number << kOffsetBits | offset : offset;
}

KvServer::Link KvServer::Find(std::string_view key, Entry** found) {
  auto* buckets = reinterpret_cast<uint64_t*>(ram_ + buckets_offset_);
  Link link = {&buckets[HashOf(key) & bucket_mask_], true};
  for (uint64_t walked = 0; Target(link) != 0; walked++) {
    Entry* entry = EntryAt(Target(link));
    if (KeyOf(*entry) == key) {
      *found = entry;
      return link;
    }
    if (walked == kChainMax) throw DamagedMemory();
    link = {&entry->next, false};
  }
  *found = nullptr;
  return link;
}

uint64_t KvServer::Allocate(uint32_t size_class) {
  Superblock& block = super();
  const uint64_t head = block.free_heads[size_class];
  if (head != 0) {
    Entry* entry = EntryAt(head);
    if (entry->size_class != size_class) throw DamagedMemory();
    block.free_heads[size_class] = entry->next;
    return head;
  }
  if (block.heap_used > heap_bytes_) throw DamagedMemory();
  if (heap_bytes_ - block.heap_used < ClassBytes(size_class)) return 0;
  const uint64_t offset = heap_offset_ + block.heap_used;
  block.heap_used += ClassBytes(size_class);
  return offset;
}

void KvServer::Free(uint64_t offset) {
  Entry* entry = EntryAt(offset);
  uint64_t& head = super().free_heads[entry->size_class];
  entry->next = head;
  entry->key_bytes = 0;
  entry->value_bytes = 0;
  head = offset;
}

bool KvServer::Store(std::string_view key, std::string_view value) {
  const uint64_t need = sizeof(Entry) + key.size() + value.size();
  uint32_t size_class = 0;
  while (ClassBytes(size_class) < need) size_class++;
  Entry* old = nullptr;
  const Link link = Find(key, &old);
  if (old != nullptr && old->size_class == size_class) {
    old->value_bytes = static_cast<uint32_t>(value.size());
    std::memcpy(reinterpret_cast<uint8_t*>(old + 1) + key.size(), value.data(), value.size());
    return true;
  }
  // Taken before the old one is given back: when the heap is full the old value must survive.
  const uint64_t offset = Allocate(size_class);
  if (offset == 0) return false;
  auto* entry = reinterpret_cast<Entry*>(ram_ + offset);
  *entry = {old != nullptr ? old->next : 0, static_cast<uint32_t>(key.size()),
            static_cast<uint32_t>(value.size()), size_class, 0};
  std::memcpy(entry + 1, key.data(), key.size());
  std::memcpy(reinterpret_cast<uint8_t*>(entry + 1) + key.size(), value.data(), value.size());
  if (old != nullptr) {
    Free(Target(link));
  } else {
    super().keys++;
  }
  Point(link, offset);
  return true;
}

bool KvServer::Erase(std::string_view key) {
  Entry* entry = nullptr;
  const Link link = Find(key, &entry);
  if (entry == nullptr) return false;
  const uint64_t offset = Target(link);
  Point(link, entry->next);
  Free(offset);
  super().keys--;
  return true;
}

}  // namespace romulus::sim
