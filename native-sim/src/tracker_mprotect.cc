// Tracking by write protection from inside: of this process directly, of a simulated machine through
// the socket on which the machine itself answers. Protocol of that socket (`<control-socket>.tracker`,
// a unix stream): we write one byte 'C'; the machine protects the pages dirtied since the last time
// and answers a u64 length, little-endian, and that many bytes of bitmap, lowest bit first.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "failure.h"
#include "fd.h"
#include "mprotect_tracker.h"
#include "tracker.h"

namespace romulus {

namespace {

// Protecting tens of thousands of scattered pages takes the machine some tens of milliseconds.
constexpr time_t kSocketWaitSeconds = 5;

class OwnMprotectTracker final : public DirtyTracker {
 public:
  explicit OwnMprotectTracker(const TrackerOptions& options)
      : DirtyTracker(options.pid, options.ranges), parts_(new MprotectTracker[ranges().size()]) {
    for (size_t i = 0; i < ranges().size(); ++i) {
      parts_[i].Arm(reinterpret_cast<void*>(ranges()[i].address), ranges()[i].bytes);
    }
  }

  const char* kind() const override { return "mprotect"; }
  bool exact_while_running() const override { return true; }

  void Refresh() override {
    for (size_t i = 0; i < ranges().size(); ++i) {
      bitmap_.resize(parts_[i].BitmapBytes());
      parts_[i].Collect(bitmap_.data());
      AddPending(i, bitmap_.data());
    }
  }

  void Take(size_t range, uint32_t first_page, uint32_t page_count, PageRuns& runs) override {
    CheckPages(range, first_page, page_count);
    if (HasPending(range)) TakePending(range, first_page, page_count, runs);
  }

  void Detach() override {
    for (size_t i = 0; i < ranges().size(); ++i) parts_[i].Disarm();
  }

 private:
  std::unique_ptr<MprotectTracker[]> parts_;
  std::vector<uint8_t> bitmap_;
};

class SocketMprotectTracker final : public DirtyTracker {
 public:
  explicit SocketMprotectTracker(const TrackerOptions& options)
      : DirtyTracker(options.pid, options.ranges), path_(options.mprotect_socket) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (ranges().size() != 1 || path_.size() >= sizeof(address.sun_path)) {
      throw Failure("ERR_USAGE_TRACKER_RANGE", "the machine's tracker socket serves one range",
                    "Pass one range and a socket path of less than 108 bytes.");
    }
    std::memcpy(address.sun_path, path_.c_str(), path_.size() + 1);
    socket_ = Fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const timeval wait = {kSocketWaitSeconds, 0};
    if (!socket_.valid() ||
        setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) != 0 ||
        setsockopt(socket_.get(), SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait)) != 0 ||
        connect(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
      throw Failure::System("ERR_HOST_TRACKER_SOCKET", "cannot reach the machine's tracker at " + path_,
                            "Start the simulated machine with --tracker mprotect.");
    }
    bitmap_.resize((PageCount(0) + 7) / 8);
    // The machine's first answer is "everything", which is what we hold already; it arms the pages.
    Refresh();
  }

  const char* kind() const override { return "mprotect"; }
  bool exact_while_running() const override { return true; }

  void Refresh() override {
    if (!socket_.valid()) {
      throw Failure("ERR_USAGE_CLOSED", "the tracker is detached", "Use it before close().");
    }
    const char collect = 'C';
    if (send(socket_.get(), &collect, 1, MSG_NOSIGNAL) != 1) throw Broken(errno);
    uint8_t header[8];
    Receive(header, sizeof(header));
    uint64_t length = 0;
    for (int i = 0; i < 8; ++i) length |= uint64_t{header[i]} << (8 * i);
    if (length != bitmap_.size()) {
      socket_.Reset();
      throw Failure("ERR_GUEST_TRACKER",
                    "the machine's tracker answered " + std::to_string(length) + " bytes where " +
                        std::to_string(bitmap_.size()) + " belong",
                    "See that the machine and this engine are of the same version.");
    }
    Receive(bitmap_.data(), bitmap_.size());
    AddPending(0, bitmap_.data());
  }

  void Take(size_t range, uint32_t first_page, uint32_t page_count, PageRuns& runs) override {
    CheckPages(range, first_page, page_count);
    if (HasPending(range)) TakePending(range, first_page, page_count, runs);
  }

  void Detach() override { socket_.Reset(); }

 private:
  Failure Broken(int error_number) {
    // Half an answer may be left in the socket: it is of no more use.
    socket_.Reset();
    const bool slow = error_number == EAGAIN;
    return Failure::System(slow ? "ERR_TIMEOUT_TRACKER" : "ERR_GUEST_LOST",
                           "the machine's tracker at " + path_ + " does not answer",
                           "See that the machine still runs; protect it again.", error_number);
  }

  void Receive(uint8_t* target, size_t length) {
    while (length > 0) {
      const ssize_t got = recv(socket_.get(), target, length, 0);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) throw Broken(got < 0 ? errno : ECONNRESET);
      target += got;
      length -= static_cast<size_t>(got);
    }
  }

  std::string path_;
  Fd socket_;
  std::vector<uint8_t> bitmap_;
};

}  // namespace

std::shared_ptr<DirtyTracker> AttachMprotect(const TrackerOptions& options) {
  if (!options.mprotect_socket.empty()) return std::make_shared<SocketMprotectTracker>(options);
  if (options.pid != getpid()) {
    throw Failure("ERR_HOST_TRACKER_FOREIGN",
                  "mprotect cannot track another process that offers no tracker socket",
                  "Start the simulated machine with --tracker mprotect, or use uffd-wp.");
  }
  return std::make_shared<OwnMprotectTracker>(options);
}

}  // namespace romulus
