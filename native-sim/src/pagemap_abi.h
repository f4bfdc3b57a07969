// The parts of Linux's userfaultfd and pagemap interface that older kernel headers lack, as in
// include/uapi/linux/{userfaultfd,fs}.h of Linux 6.7 and Documentation/admin-guide/mm/pagemap.rst.
#pragma once

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <cstdint>

namespace romulus {

constexpr uint64_t kUffdFeatureWpHugetlbfsShmem = 1 << 12;
constexpr uint64_t kUffdFeatureWpUnpopulated = 1 << 13;
constexpr uint64_t kUffdFeatureWpAsync = 1 << 15;
constexpr int kUffdUserModeOnly = 1;

constexpr uint64_t kPageIsWritten = 1 << 1;
constexpr uint64_t kPageIsPresent = 1 << 3;
constexpr uint64_t kPageIsSwapped = 1 << 4;
constexpr uint64_t kScanWpMatching = 1 << 0;
constexpr uint64_t kScanCheckWpAsync = 1 << 1;

struct PageRegion {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};

struct PageScanArgument {
  uint64_t size;
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  uint64_t walk_end;
  uint64_t vec;
  uint64_t vec_len;
  uint64_t max_pages;
  uint64_t category_inverted;
  uint64_t category_mask;
  uint64_t category_anyof_mask;
  uint64_t return_mask;
};
static_assert(sizeof(PageScanArgument) == 96);

constexpr unsigned long kPagemapScan = _IOWR('f', 16, PageScanArgument);

// Bit of a /proc/PID/pagemap entry: written since the last clear_refs.
constexpr uint64_t kPagemapSoftDirty = uint64_t{1} << 55;

}  // namespace romulus
