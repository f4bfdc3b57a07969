// Tracking by the kernel alone: userfaultfd in its asynchronous write-protect mode, read and re-armed
// in one step by PAGEMAP_SCAN. See Documentation/admin-guide/mm/{userfaultfd,pagemap}.rst.
//
// All of the range is write-protected at the start, untouched pages too (the kernel leaves markers
// for them). This costs a page table for every populated or unpopulated 2 MiB, 0.2 % of the memory,
// and buys exactness: without markers, the first write into an untouched 2 MiB stretch makes the scan
// report all of its 512 pages, and copying those would allocate them.
#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "attach.h"
#include "failure.h"
#include "pagemap_abi.h"
#include "staged_pages.h"
#include "tracker.h"

namespace romulus {

namespace {

constexpr size_t kRegionsPerScan = 4096;
// Write-protecting holds the process's mmap lock for reading: in pieces, so nobody waits for long.
constexpr uint64_t kProtectPieceBytes = uint64_t{1} << 28;
constexpr char kNeedKernel[] =
    "Run Linux 6.7 or newer, or choose --tracker soft-dirty or mprotect.";

class UffdTracker final : public DirtyTracker {
 public:
  explicit UffdTracker(const TrackerOptions& options)
      : DirtyTracker(options.pid, options.ranges) {
    OpenProcess();
    uffd_ = pid() == getpid() ? OwnUserfaultfd() : InjectUserfaultfd(pid());
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = kUffdFeatureWpAsync | kUffdFeatureWpUnpopulated | kUffdFeatureWpHugetlbfsShmem;
    if (ioctl(uffd_.get(), UFFDIO_API, &api) != 0) {
      throw Failure::System("ERR_HOST_TRACKER_KERNEL",
                            "this kernel's userfaultfd cannot write-protect asynchronously",
                            kNeedKernel);
    }
    try {
      for (const TrackedRange& range : ranges()) Arm(range);
    } catch (...) {
      Detach();
      throw;
    }
  }

  ~UffdTracker() override { UffdTracker::Detach(); }

  const char* kind() const override { return "uffd-wp"; }
  bool exact_while_running() const override { return true; }
  bool concurrent() const override { return true; }

  void Take(size_t range, uint32_t first_page, uint32_t page_count, PageRuns& runs) override {
    CheckPages(range, first_page, page_count);
    if (!uffd_.valid()) {
      throw Failure("ERR_USAGE_CLOSED", "the tracker is detached", "Use it before close().");
    }
    if (page_count == 0) return;
    if (HasPending(range)) {
      PageRuns fresh;
      Scan(range, first_page, page_count, fresh);
      for (const PageRun& run : fresh) AddPendingRun(range, run.first_page, run.page_count);
      TakePending(range, first_page, page_count, runs);
    } else {
      Scan(range, first_page, page_count, runs);
    }
  }

  // The walk over a process that has ended finds no memory and reports no error: without this, a
  // dead machine would look like an idle one.
  void CheckAlive() const override {
    if (!pidfd_.valid()) return;
    pollfd poll_fd = {pidfd_.get(), POLLIN, 0};
    if (poll(&poll_fd, 1, 0) != 0) throw Lost();
  }

  void Detach() override {
    if (!uffd_.valid()) return;
    for (const TrackedRange& range : ranges()) {
      uffdio_range all = {range.address, range.bytes};
      // Fails when the process is gone or the range was never registered: nothing to undo then.
      ioctl(uffd_.get(), UFFDIO_UNREGISTER, &all);
    }
    uffd_.Reset();
    pagemap_.Reset();
  }

 private:
  Failure Lost() const {
    return Failure("ERR_GUEST_LOST", "process " + std::to_string(pid()) + " has ended",
                   "Start the machine and protect it again.");
  }

  void OpenProcess() {
    const std::string path = "/proc/" + std::to_string(pid()) + "/pagemap";
    if (pid() != getpid()) {
      pidfd_ = Fd(static_cast<int>(syscall(SYS_pidfd_open, pid(), 0)));
      if (!pidfd_.valid()) {
        throw Failure::System(errno == ESRCH ? "ERR_GUEST_LOST" : "ERR_HOST_TRACKER_KERNEL",
                              "cannot refer to process " + std::to_string(pid()),
                              "Check the machine's process id.");
      }
    }
    pagemap_ = Fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!pagemap_.valid()) {
      throw Failure::System(errno == ENOENT ? "ERR_GUEST_LOST" : "ERR_HOST_ATTACH_PERMISSION",
                            "cannot open " + path,
                            "Run Romulus as root or as the machine's user with ptrace rights.");
    }
  }

  static Fd OwnUserfaultfd() {
    Fd fd(static_cast<int>(
        syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | kUffdUserModeOnly)));
    if (!fd.valid()) {
      throw Failure::System(
          errno == ENOSYS ? "ERR_HOST_TRACKER_KERNEL" : "ERR_HOST_TRACKER_PERMISSION",
          "cannot create a userfaultfd",
          errno == ENOSYS ? kNeedKernel
                          : "Allow the userfaultfd system call in this container's seccomp profile.");
    }
    return fd;
  }

  void Arm(const TrackedRange& range) {
    uffdio_register registration{};
    registration.range = {range.address, range.bytes};
    registration.mode = UFFDIO_REGISTER_MODE_WP;
    if (ioctl(uffd_.get(), UFFDIO_REGISTER, &registration) != 0) {
      if (errno == EBUSY) {
        throw Failure::System("ERR_HOST_TRACKER_BUSY",
                              "the machine's memory is already tracked by a userfaultfd",
                              "Stop the other replicator of this machine, then try again.");
      }
      throw Failure::System("ERR_HOST_TRACKER_RANGE", "the kernel cannot track this memory",
                            "Give the machine anonymous, memfd, tmpfs or hugetlbfs memory.");
    }
    for (uint64_t done = 0; done < range.bytes; done += kProtectPieceBytes) {
      uffdio_writeprotect protect{};
      protect.range = {range.address + done, std::min(kProtectPieceBytes, range.bytes - done)};
      protect.mode = UFFDIO_WRITEPROTECT_MODE_WP;
      while (ioctl(uffd_.get(), UFFDIO_WRITEPROTECT, &protect) != 0) {
        if (errno == EAGAIN || errno == EINTR) continue;
        throw Failure::System("ERR_HOST_TRACKER_RANGE", "cannot write-protect the machine's memory",
                              "Free memory on this host, then try again.");
      }
    }
    PageRuns probe;
    ScanAddresses(range, 0, 1, probe, 0);
  }

  void Scan(size_t range, uint32_t first_page, uint32_t page_count, PageRuns& runs) const {
    ScanAddresses(ranges()[range], first_page, page_count, runs, kScanWpMatching);
  }

  void ScanAddresses(const TrackedRange& range, uint32_t first_page, uint32_t page_count,
                     PageRuns& runs, uint64_t extra_flags) const {
    PageRegion regions[kRegionsPerScan];
    PageScanArgument argument{};
    argument.size = sizeof(argument);
    argument.flags = kScanCheckWpAsync | extra_flags;
    argument.start = range.address + uint64_t{first_page} * kPageBytes;
    argument.end = argument.start + uint64_t{page_count} * kPageBytes;
    argument.vec = reinterpret_cast<uint64_t>(regions);
    argument.vec_len = kRegionsPerScan;
    // These two masks alone let the kernel take its short path through the page tables.
    argument.category_mask = kPageIsWritten;
    argument.return_mask = kPageIsWritten;
    while (argument.start < argument.end) {
      // The kernel takes over what it finds here, and writes to it only where it stopped early.
      argument.walk_end = 0;
      const int found = ioctl(pagemap_.get(), kPagemapScan, &argument);
      if (found < 0) {
        if (errno == EINTR) continue;
        if (errno == ESRCH) throw Lost();
        throw Failure::System(errno == ENOTTY ? "ERR_HOST_TRACKER_KERNEL" : "ERR_HOST_TRACKER_SCAN",
                              "cannot scan the machine's memory",
                              errno == ENOTTY
                                  ? kNeedKernel
                                  : "See that the machine did not remap its memory; protect it again.");
      }
      for (int i = 0; i < found; ++i) {
        const PageRegion& region = regions[i];
        AppendRun(runs, static_cast<uint32_t>((region.start - range.address) / kPageBytes),
                  static_cast<uint32_t>((region.end - region.start) / kPageBytes));
      }
      // Seen on Linux 6.18: a call that had to empty its own buffer (of 512 regions) on the
      // way says where it did so last, not how far it came. What it reported after that must not be
      // looked at again: a machine that runs may have written there anew, and pages must ascend.
      uint64_t done = argument.walk_end;
      if (found > 0) done = std::max<uint64_t>(done, regions[found - 1].end);
      if (done <= argument.start) break;
      argument.start = done;
    }
  }

  Fd pidfd_;
  Fd pagemap_;
  Fd uffd_;
};

}  // namespace

std::shared_ptr<DirtyTracker> AttachUffd(const TrackerOptions& options) {
  return std::make_shared<UffdTracker>(options);
}

}  // namespace romulus
