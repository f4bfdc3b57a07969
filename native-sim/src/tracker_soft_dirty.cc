// Tracking by the soft-dirty bits of the page tables, for kernels that have them and not WP_ASYNC.
// Documentation/admin-guide/mm/soft-dirty.rst.
//
// The bits belong to the whole process and there is one clear for all of them: two replicators, or
// a CRIU dump beside us, would each lose what the other cleared. Reading and clearing are two steps,
// so a write between them would be lost: exact only while the process stands still.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "failure.h"
#include "fd.h"
#include "pagemap_abi.h"
#include "staged_pages.h"
#include "tracker.h"

namespace romulus {

namespace {

constexpr size_t kEntriesPerRead = 8192;

class SoftDirtyTracker final : public DirtyTracker {
 public:
  explicit SoftDirtyTracker(const TrackerOptions& options)
      : DirtyTracker(options.pid, options.ranges) {
    if (!HasSoftDirty()) {
      throw Failure("ERR_HOST_TRACKER_KERNEL", "this kernel has no soft-dirty bits",
                    "Run a kernel with CONFIG_MEM_SOFT_DIRTY, or Linux 6.7 for uffd-wp.");
    }
    const std::string folder = "/proc/" + std::to_string(pid());
    pagemap_ = Fd(open((folder + "/pagemap").c_str(), O_RDONLY | O_CLOEXEC));
    clear_refs_ = Fd(open((folder + "/clear_refs").c_str(), O_WRONLY | O_CLOEXEC));
    if (!pagemap_.valid() || !clear_refs_.valid()) {
      throw Failure::System(errno == ENOENT ? "ERR_GUEST_LOST" : "ERR_HOST_ATTACH_PERMISSION",
                            "cannot open pagemap and clear_refs of process " + std::to_string(pid()),
                            "Run Romulus as root or as the machine's user.");
    }
    Clear();
  }

  const char* kind() const override { return "soft-dirty"; }
  bool exact_while_running() const override { return false; }

  void Refresh() override {
    CheckOpen();
    for (size_t i = 0; i < ranges().size(); ++i) ReadBits(i);
    Clear();
  }

  void Take(size_t range, uint32_t first_page, uint32_t page_count, PageRuns& runs) override {
    CheckOpen();
    CheckPages(range, first_page, page_count);
    if (HasPending(range)) TakePending(range, first_page, page_count, runs);
  }

  void Detach() override {
    pagemap_.Reset();
    clear_refs_.Reset();
  }

 private:
  void CheckOpen() const {
    if (!pagemap_.valid()) {
      throw Failure("ERR_USAGE_CLOSED", "the tracker is detached", "Use it before close().");
    }
  }

  void Clear() {
    while (write(clear_refs_.get(), "4", 1) != 1) {
      if (errno == EINTR) continue;
      throw Failure::System(errno == ESRCH ? "ERR_GUEST_LOST" : "ERR_HOST_TRACKER_SCAN",
                            "cannot clear the soft-dirty bits of process " + std::to_string(pid()),
                            "See that the machine still runs; protect it again.");
    }
  }

  void ReadBits(size_t range) {
    std::vector<uint64_t> entries(kEntriesPerRead);
    const uint64_t first_entry = ranges()[range].address / kPageBytes;
    const uint32_t pages = PageCount(range);
    for (uint32_t page = 0; page < pages;) {
      const size_t wanted = std::min<size_t>(kEntriesPerRead, pages - page) * sizeof(uint64_t);
      const ssize_t got = pread(pagemap_.get(), entries.data(), wanted,
                                static_cast<off_t>((first_entry + page) * sizeof(uint64_t)));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0 || got % static_cast<ssize_t>(sizeof(uint64_t)) != 0) {
        // A process that has ended reads as the end of the file.
        throw Failure::System(got == 0 ? "ERR_GUEST_LOST" : "ERR_HOST_TRACKER_SCAN",
                              "cannot read the pagemap of process " + std::to_string(pid()),
                              "See that the machine still runs; protect it again.",
                              got < 0 ? errno : ESRCH);
      }
      const auto count = static_cast<uint32_t>(got / static_cast<ssize_t>(sizeof(uint64_t)));
      for (uint32_t i = 0; i < count; ++i) {
        if ((entries[i] & kPagemapSoftDirty) != 0) AddPendingRun(range, page + i, 1);
      }
      page += count;
    }
  }

  Fd pagemap_;
  Fd clear_refs_;
};

}  // namespace

bool HasSoftDirty() {
  // A fresh mapping counts as soft-dirty, so nothing of this process need be cleared to find out.
  void* page = mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return false;
  *static_cast<volatile uint8_t*>(page) = 1;
  uint64_t entry = 0;
  const Fd pagemap(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  const ssize_t got =
      pagemap.valid() ? pread(pagemap.get(), &entry, sizeof(entry),
                              static_cast<off_t>(reinterpret_cast<uint64_t>(page) / kPageBytes *
                                                 sizeof(entry)))
                      : -1;
  munmap(page, kPageBytes);
  return got == static_cast<ssize_t>(sizeof(entry)) && (entry & kPagemapSoftDirty) != 0;
}

std::shared_ptr<DirtyTracker> AttachSoftDirty(const TrackerOptions& options) {
  return std::make_shared<SoftDirtyTracker>(options);
}

}  // namespace romulus
