#include "mapped_memory.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "failure.h"
#include "staged_pages.h"

namespace romulus {

namespace {

constexpr char kTooLittleMemory[] =
    "Free memory on this host, raise the limit of its /dev/shm or cgroup, or lower the VM's memory.";

// Taken in steps, each of which a signal may undo.
constexpr uint64_t kAllocateStepBytes = uint64_t{256} << 20;
constexpr uint64_t kHugePageBytesMax = uint64_t{1} << 40;

void CheckSize(uint64_t bytes) {
  if (bytes == 0 || bytes % kPageBytes != 0 || bytes > kMemoryBytesMax) {
    throw Failure("ERR_USAGE_MEMORY_SIZE",
                  "a memory of " + std::to_string(bytes) + " bytes is not possible",
                  "Give a multiple of 4096 bytes between 4 KiB and 16 TiB.");
  }
}

uint64_t RoundedUp(uint64_t bytes, uint64_t unit) { return (bytes + unit - 1) / unit * unit; }

// Huge pages are mapped and unmapped as wholes only.
uint64_t PageBytesOf(int fd) {
  struct statfs status {};
  const bool is_huge = fstatfs(fd, &status) == 0 && status.f_type == HUGETLBFS_MAGIC;
  return is_huge ? static_cast<uint64_t>(status.f_bsize) : kPageBytes;
}

unsigned HugePageFlags(uint64_t page_bytes) {
  if (page_bytes == 0) return 0;
  const bool is_power = (page_bytes & (page_bytes - 1)) == 0;
  if (!is_power || page_bytes <= kPageBytes || page_bytes > kHugePageBytesMax) {
    throw Failure("ERR_USAGE_MEMORY_SIZE",
                  "huge pages of " + std::to_string(page_bytes) + " bytes are not possible",
                  "Give a size that /sys/kernel/mm/hugepages lists.");
  }
  const auto shift = static_cast<unsigned>(__builtin_ctzll(page_bytes));
  return MFD_HUGETLB | (shift << MFD_HUGE_SHIFT);
}

bool IsZero(const uint8_t* page) {
  uint64_t any = 0;
  for (size_t i = 0; i < kPageBytes; i += 8) {
    uint64_t word;
    std::memcpy(&word, page + i, 8);
    any |= word;
  }
  return any == 0;
}

}  // namespace

MappedMemory::MappedMemory(Fd fd, size_t bytes, bool writable)
    : fd_(std::move(fd)),
      bytes_(bytes),
      mapped_bytes_(static_cast<size_t>(RoundedUp(bytes, PageBytesOf(fd_.get())))),
      writable_(writable) {
  const int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
  void* mapping =
      mmap(nullptr, mapped_bytes_, protection, MAP_SHARED | MAP_NORESERVE, fd_.get(), 0);
  if (mapping == MAP_FAILED) {
    throw Failure::System("ERR_HOST_MEMORY_MAP",
                          "cannot map " + std::to_string(bytes) + " bytes of memory",
                          kTooLittleMemory);
  }
  data_ = static_cast<uint8_t*>(mapping);
}

MappedMemory::~MappedMemory() { munmap(data_, mapped_bytes_); }

std::shared_ptr<MappedMemory> MappedMemory::Create(const std::string& name, uint64_t bytes,
                                                   uint64_t huge_page_bytes) {
  CheckSize(bytes);
  const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | HugePageFlags(huge_page_bytes);
  const uint64_t object_bytes = RoundedUp(bytes, std::max<uint64_t>(huge_page_bytes, kPageBytes));
  Fd fd(memfd_create(name.c_str(), flags));
  if (!fd.valid() || ftruncate(fd.get(), static_cast<off_t>(object_bytes)) != 0) {
    throw Failure::System("ERR_HOST_MEMORY_CREATE",
                          "cannot create a memory of " + std::to_string(bytes) + " bytes",
                          kTooLittleMemory);
  }
  // Whoever else holds the descriptor must not be able to shorten it: touching the lost pages
  // would end this process with SIGBUS.
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    throw Failure::System("ERR_HOST_MEMORY_CREATE", "cannot seal the size of a memory",
                          "Run on a Linux kernel with memfd sealing (3.17 or newer).");
  }
  return std::shared_ptr<MappedMemory>(
      new MappedMemory(std::move(fd), static_cast<size_t>(bytes), true));
}

std::shared_ptr<MappedMemory> MappedMemory::MapPath(const std::string& path, uint64_t bytes,
                                                    bool writable) {
  Fd fd(open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd.valid()) {
    throw Failure::System("ERR_HOST_MEMORY_MAP", "cannot open the memory at " + path,
                          "Check that the path exists and that this user may open it.");
  }
  return MapFd(fd.get(), bytes, writable);
}

std::shared_ptr<MappedMemory> MappedMemory::MapFd(int fd, uint64_t bytes, bool writable) {
  CheckSize(bytes);
  struct stat status {};
  if (fstat(fd, &status) != 0) {
    throw Failure::System("ERR_HOST_MEMORY_MAP", "cannot examine the memory",
                          "Pass a descriptor that is open.");
  }
  if (!S_ISREG(status.st_mode) || static_cast<uint64_t>(status.st_size) < bytes) {
    throw Failure("ERR_HOST_MEMORY_SIZE",
                  "the memory holds " + std::to_string(status.st_size) + " bytes where " +
                      std::to_string(bytes) + " are needed",
                  "Create the file at the VM's memory size before it is mapped.");
  }
  Fd own(fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!own.valid()) {
    throw Failure::System("ERR_LIMIT_DESCRIPTORS", "cannot duplicate the memory's descriptor",
                          "Raise the limit of open files (ulimit -n).");
  }
  return std::shared_ptr<MappedMemory>(
      new MappedMemory(std::move(own), static_cast<size_t>(bytes), writable));
}

void MappedMemory::CheckRange(uint64_t offset, uint64_t length) const {
  if (offset > bytes_ || length > bytes_ - offset) {
    throw Failure("ERR_USAGE_RANGE",
                  "bytes " + std::to_string(offset) + "+" + std::to_string(length) +
                      " lie outside a memory of " + std::to_string(bytes_) + " bytes",
                  "Stay within the memory.");
  }
}

void MappedMemory::Read(uint64_t offset, uint64_t length, uint8_t* target) const {
  CheckRange(offset, length);
  while (length > 0) {
    const ssize_t got = pread(fd_.get(), target, length, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      throw Failure::System("ERR_HOST_MEMORY_READ", "cannot read the memory",
                            "Check that nobody shortened the file behind it.", got < 0 ? errno : EIO);
    }
    target += got;
    offset += static_cast<uint64_t>(got);
    length -= static_cast<uint64_t>(got);
  }
}

void MappedMemory::Write(uint64_t offset, uint64_t length, const uint8_t* source) {
  CheckRange(offset, length);
  if (!writable_) {
    throw Failure("ERR_USAGE_READ_ONLY", "the memory was mapped for reading only",
                  "Map it with writable: true.");
  }
  std::memcpy(data_ + offset, source, length);
}

void MappedMemory::Allocate() const {
  for (uint64_t offset = 0; offset < mapped_bytes_;) {
    const uint64_t step = std::min<uint64_t>(mapped_bytes_ - offset, kAllocateStepBytes);
    if (fallocate(fd_.get(), 0, static_cast<off_t>(offset), static_cast<off_t>(step)) == 0) {
      offset += step;
    } else if (errno == ENOSPC || errno == ENOMEM || errno == EDQUOT) {
      throw Failure::System("ERR_HOST_SPACE",
                            "not all of the " + std::to_string(mapped_bytes_) +
                                " bytes of memory can be had: " + std::to_string(offset) + " were",
                            "Free memory, or huge pages, where the memory is kept, or keep it "
                            "elsewhere.");
    } else if (errno != EINTR) {
      throw Failure::System("ERR_HOST_MEMORY_CREATE", "memory cannot be taken beforehand there",
                            "Keep it on a tmpfs or hugetlbfs.");
    }
  }
}

uint64_t MappedMemory::PopulatedBytes() const {
  struct stat status {};
  if (fstat(fd_.get(), &status) != 0) {
    throw Failure::System("ERR_HOST_MEMORY_READ", "cannot examine the memory",
                          "Pass a descriptor that is open.");
  }
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

DataExtent NextDataExtent(int fd, uint64_t from, uint64_t until, uint64_t bytes) {
  if (from >= until) return {bytes, bytes};
  const off_t begin = lseek(fd, static_cast<off_t>(from), SEEK_DATA);
  if (begin < 0) {
    if (errno == ENXIO) return {bytes, bytes};
    return {from, bytes};
  }
  // The kernel walks an extent page by page to find its end: only for those that are wanted.
  if (static_cast<uint64_t>(begin) >= until) return {bytes, bytes};
  const off_t end = lseek(fd, begin, SEEK_HOLE);
  const uint64_t first = std::min<uint64_t>(static_cast<uint64_t>(begin), bytes);
  const uint64_t last = end < 0 ? bytes : std::min<uint64_t>(static_cast<uint64_t>(end), bytes);
  // Page granularity, outward: file systems may answer in smaller blocks.
  return {first / kPageBytes * kPageBytes,
          std::min<uint64_t>((last + kPageBytes - 1) / kPageBytes * kPageBytes, bytes)};
}

int64_t MappedMemory::FirstDifferentPage(const MappedMemory& other) const {
  if (other.bytes_ != bytes_) {
    throw Failure("ERR_USAGE_MEMORY_SIZE",
                  "memories of " + std::to_string(bytes_) + " and " +
                      std::to_string(other.bytes_) + " bytes cannot be compared",
                  "Compare memories of equal size.");
  }
  DataExtent left = NextDataExtent(fd_.get(), 0, bytes_, bytes_);
  DataExtent right = NextDataExtent(other.fd_.get(), 0, bytes_, bytes_);
  for (uint64_t position = std::min(left.begin, right.begin); position < bytes_;
       position += kPageBytes) {
    if (position >= left.end) left = NextDataExtent(fd_.get(), position, bytes_, bytes_);
    if (position >= right.end) right = NextDataExtent(other.fd_.get(), position, bytes_, bytes_);
    const bool in_left = position >= left.begin && position < left.end;
    const bool in_right = position >= right.begin && position < right.end;
    if (!in_left && !in_right) {
      position = std::min(left.begin, right.begin);
      if (position >= bytes_) break;
      position -= kPageBytes;  // the loop's step brings it back
      continue;
    }
    const bool same =
        in_left && in_right
            ? std::memcmp(data_ + position, other.data_ + position, kPageBytes) == 0
            : IsZero((in_left ? data_ : other.data_) + position);
    if (!same) return static_cast<int64_t>(position / kPageBytes);
  }
  return -1;
}

}  // namespace romulus
