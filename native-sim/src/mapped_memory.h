// A shared mapping of a memory object (memfd, a file on tmpfs, /proc/PID/fd/N): a machine's RAM, or
// the backup's image of it. Plain C++; the JavaScript face is memory.cc.
//
// Holes stay holes: pages that nobody wrote take no memory, and reading a hole through a shared
// mapping would allocate it, so everything that only reads asks the file first.
//
// Ownership: held by shared_ptr; the mapping lives until its last user lets go, so a JavaScript
// close() never pulls memory from under a capture. Threads: the object is immutable after
// creation, the bytes behind it are shared with whoever maps them; nothing here locks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "fd.h"

namespace romulus {

// Page indexes are 32 bits wide everywhere, which bounds a block at 16 TiB.
constexpr uint64_t kMemoryBytesMax = uint64_t{1} << 44;

class MappedMemory {
 public:
  // A new anonymous memory object of zeros whose size is sealed; of ordinary pages when
  // `huge_page_bytes` is 0.
  static std::shared_ptr<MappedMemory> Create(const std::string& name, uint64_t bytes,
                                              uint64_t huge_page_bytes = 0);
  static std::shared_ptr<MappedMemory> MapPath(const std::string& path, uint64_t bytes,
                                               bool writable);
  // Duplicates `fd`; the caller keeps its own.
  static std::shared_ptr<MappedMemory> MapFd(int fd, uint64_t bytes, bool writable);

  MappedMemory(const MappedMemory&) = delete;
  MappedMemory& operator=(const MappedMemory&) = delete;
  ~MappedMemory();

  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  bool writable() const { return writable_; }
  int fd() const { return fd_.get(); }

  // Copies out without allocating holes.
  void Read(uint64_t offset, uint64_t length, uint8_t* target) const;
  // Goes through the mapping, so that a tracker of this process sees it.
  void Write(uint64_t offset, uint64_t length, const uint8_t* source);
  // Takes all pages of the object now, so that touching one later cannot fail. Takes a tenth of a
  // second for a GiB of ordinary pages. From any thread that holds a reference.
  void Allocate() const;
  // Bytes of memory that the object takes.
  uint64_t PopulatedBytes() const;
  // The first page whose bytes differ from `other`'s, -1 when none does. A hole equals zeros.
  int64_t FirstDifferentPage(const MappedMemory& other) const;

 private:
  MappedMemory(Fd fd, size_t bytes, bool writable);
  void CheckRange(uint64_t offset, uint64_t length) const;

  Fd fd_;
  size_t bytes_;
  // Whole pages of what the object is made of.
  size_t mapped_bytes_;
  bool writable_;
  uint8_t* data_;
};

// The next stretch of a file that holds data, at or after `from`; begin == end == bytes when none
// begins before `until`. File systems that know no holes report one stretch.
struct DataExtent {
  uint64_t begin;
  uint64_t end;
};
DataExtent NextDataExtent(int fd, uint64_t from, uint64_t until, uint64_t bytes);

}  // namespace romulus
