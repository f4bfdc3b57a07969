#include "state_pipe.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "failure.h"

namespace romulus {

namespace {

constexpr size_t kPipePageBytes = 4096;
// Holds any state that is usual, so that QEMU need not wait for a reader; the most that a user who
// is not root may have by default (fs.pipe-max-size).
constexpr int kOpenBytes = 1 << 20;
constexpr uint8_t kGateByte = 0x5a;
constexpr char kPipeName[] = "s";
// For a QEMU that was about to open the pipe when its path was removed.
constexpr useconds_t kOpeningUs = 20'000;

Failure PipeFailure(const std::string& what) {
  return Failure::System("ERR_HOST_STATE_PIPE", what,
                         "Run as root or as QEMU's user, make room in /dev/shm, and see the limits "
                         "fs.inotify.max_user_instances and fs.pipe-user-pages-soft.");
}

Fd Lock(const std::string& directory, int more_flags) {
  Fd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (fd.valid() && flock(fd.get(), LOCK_EX | more_flags) != 0) fd.Reset();
  return fd;
}

using Listing = std::unique_ptr<DIR, int (*)(DIR*)>;

// Takes the pipe out of a directory, and what else an engine leaves there: sockets.
Fd TakeAway(int directory) {
  Fd pipe;
  struct stat status {};
  if (fstatat(directory, kPipeName, &status, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISFIFO(status.st_mode)) {
    return pipe;
  }
  pipe = Fd(openat(directory, kPipeName, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW));
  unlinkat(directory, kPipeName, 0);
  Fd again(openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const Listing entries(fdopendir(again.get()), closedir);
  if (!entries) return pipe;
  // The listing closes it.
  again.Release();
  while (const dirent* entry = readdir(entries.get())) {
    if (fstatat(directory, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
        S_ISSOCK(status.st_mode)) {
      unlinkat(directory, entry->d_name, 0);
    }
  }
  return pipe;
}

void ReadAway(int pipe) {
  char discarded[kPipePageBytes];
  while (read(pipe, discarded, sizeof discarded) > 0) {
  }
}

}  // namespace

StatePipe::StatePipe(const std::string& directory, uid_t uid, gid_t gid)
    : path_(directory + "/" + kPipeName), directory_lock_(Lock(directory, 0)) {
  if (!directory_lock_.valid()) throw PipeFailure("cannot lock " + directory);
  if (mkfifo(path_.c_str(), S_IRUSR | S_IWUSR) != 0) {
    throw PipeFailure("cannot make the pipe " + path_);
  }
  // Open for both directions at once: nobody is waited for, and the inotify that begins after it
  // tells of others alone.
  pipe_ = Fd(open(path_.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  watch_ = Fd(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  const bool is_owned = uid == geteuid() || chown(path_.c_str(), uid, gid) == 0;
  if (!pipe_.valid() || !is_owned || !watch_.valid() ||
      inotify_add_watch(watch_.get(), path_.c_str(), IN_OPEN | IN_CLOSE_WRITE) < 0) {
    const int why = errno;
    unlink(path_.c_str());
    errno = why;
    throw PipeFailure("cannot use the pipe " + path_);
  }
}

StatePipe::~StatePipe() {
  unlink(path_.c_str());
  ReadAway(pipe_.get());
  usleep(kOpeningUs);
}

void StatePipe::CloseGate(size_t state_bytes) {
  ReadAway(pipe_.get());
  Noticed();
  state_bytes_ = state_bytes;
  const size_t kept = kSaveBufferBytes + kShrinkBytesMax;
  const size_t room_pages = state_bytes > kept ? (state_bytes - kept) / kPipePageBytes : 0;
  // A pipe has a power of two of pages (pipe_resize_ring in fs/pipe.c); this is one more than the
  // room.
  size_t pages = 1;
  while (pages <= room_pages) pages *= 2;
  int bytes = fcntl(pipe_.get(), F_SETPIPE_SZ, static_cast<int>(pages * kPipePageBytes));
  size_t filled_pages = pages - room_pages;
  if (bytes < 0) {
    // Without the means to be changed, it is filled as it is.
    bytes = fcntl(pipe_.get(), F_GETPIPE_SZ);
    if (bytes < 0) throw PipeFailure("the pipe for device states is gone");
    filled_pages = static_cast<size_t>(bytes) / kPipePageBytes;
  }
  uint8_t page[kPipePageBytes];
  std::memset(page, kGateByte, sizeof page);
  gate_bytes_ = 0;
  for (size_t i = 0; i < filled_pages; ++i) {
    if (write(pipe_.get(), page, sizeof page) != static_cast<ssize_t>(sizeof page)) {
      throw PipeFailure("the pipe for device states cannot be filled");
    }
    gate_bytes_ += sizeof page;
  }
}

StatePipe::Notice StatePipe::Noticed() {
  Notice notice;
  alignas(inotify_event) char events[16 * sizeof(inotify_event)];
  for (;;) {
    const ssize_t got = read(watch_.get(), events, sizeof events);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return notice;
    for (ssize_t at = 0; at < got;) {
      const auto* event = reinterpret_cast<const inotify_event*>(events + at);
      notice.opened = notice.opened || (event->mask & IN_OPEN) != 0;
      notice.closed = notice.closed || (event->mask & IN_CLOSE_WRITE) != 0;
      at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
    }
  }
}

bool StatePipe::OpenGate() {
  // May be refused; then QEMU writes as quickly as it is read.
  is_wide_ = fcntl(pipe_.get(), F_SETPIPE_SZ, kOpenBytes) >= kOpenBytes && state_bytes_ > 0 &&
             state_bytes_ <= kOpenBytes / 2;
  bool is_whole = true;
  uint8_t page[kPipePageBytes];
  while (gate_bytes_ > 0) {
    const ssize_t got = read(pipe_.get(), page, std::min(sizeof page, gate_bytes_));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      gate_bytes_ = 0;
      return false;
    }
    is_whole = is_whole && std::all_of(page, page + got, [](uint8_t byte) { return byte == kGateByte; });
    gate_bytes_ -= static_cast<size_t>(got);
  }
  return is_whole;
}

bool StatePipe::Read(std::string* state, size_t bytes_max) const {
  bool has_come = false;
  for (;;) {
    char chunk[65536];
    const ssize_t got = read(pipe_.get(), chunk, sizeof chunk);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return has_come;
    has_come = true;
    const size_t room = bytes_max - std::min(bytes_max, state->size());
    state->append(chunk, std::min(room, static_cast<size_t>(got)));
  }
}

size_t ReleaseAbandoned(const std::string& parent, const std::string& prefix) {
  const Listing listing(opendir(parent.c_str()), closedir);
  if (!listing) return 0;
  size_t released = 0;
  while (const dirent* entry = readdir(listing.get())) {
    const std::string name = entry->d_name;
    if (!name.starts_with(prefix)) continue;
    const std::string directory = parent + "/" + name;
    const Fd lock = Lock(directory, LOCK_NB);
    struct stat owner {};
    // What others put there under our name is theirs.
    if (!lock.valid() || fstat(lock.get(), &owner) != 0 || owner.st_uid != geteuid()) continue;
    const Fd pipe = TakeAway(lock.get());
    // An empty one may be about to be used. One with more in it than is ours stays.
    if (!pipe.valid() || rmdir(directory.c_str()) != 0) continue;
    ReadAway(pipe.get());
    usleep(kOpeningUs);
    ++released;
  }
  return released;
}

}  // namespace romulus
