// System calls on descriptors that Node has no way to. All descriptors are borrowed but those that
// duplicateDescriptor and listenAtPath return, which are the caller's. Any thread.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "areas.h"
#include "border.h"

namespace romulus {

namespace {

constexpr size_t kReadBytes = 16384;
constexpr int kBacklog = 8;

int DescriptorIn(const Napi::CallbackInfo& info) {
  return static_cast<int>(WholeNumber(info[0], "fd"));
}

Napi::Value DuplicateDescriptor(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const int copy = fcntl(DescriptorIn(info), F_DUPFD_CLOEXEC, 0);
    if (copy < 0) {
      throw Failure::System("ERR_HOST_DESCRIPTOR", "a descriptor cannot be duplicated",
                            "Raise the limit on open files (`ulimit -n`).");
    }
    return Napi::Number::New(info.Env(), copy);
  });
}

// (path): a unix socket that listens there, for this user alone, and that nobody here accepts from.
Napi::Value ListenAtPath(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const std::string path = info[0].ToString().Utf8Value();
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool listens = false;
    if (path.size() >= sizeof address.sun_path) {
      errno = ENAMETOOLONG;
    } else if (fd >= 0) {
      std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
      // Before it has a path: nobody else gets to it even for a moment.
      listens = fchmod(fd, S_IRUSR | S_IWUSR) == 0 &&
                bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
                listen(fd, kBacklog) == 0;
    }
    if (!listens) {
      const int reason = errno;
      if (fd >= 0) close(fd);
      errno = reason;
      throw Failure::System("ERR_HOST_DESCRIPTOR", "cannot listen on " + path,
                            "Check that its directory exists, is writable and the path is not too "
                            "long.");
    }
    return Napi::Number::New(info.Env(), fd);
  });
}

// close(2) may report an error of an earlier write; the descriptor is gone all the same.
Napi::Value CloseDescriptor(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    close(DescriptorIn(info));
    return info.Env().Undefined();
  });
}

Napi::Value ShutDownSocket(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const int fd = DescriptorIn(info);
    if (shutdown(fd, SHUT_RDWR) != 0 && errno != ENOTCONN) {
      throw Failure::System("ERR_HOST_DESCRIPTOR", "a connection cannot be shut down",
                            "Pass the descriptor of a socket.");
    }
    return info.Env().Undefined();
  });
}

Napi::Value PunchHole(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const int fd = DescriptorIn(info);
    const auto offset = static_cast<off_t>(WholeNumber(info[1], "offset"));
    const auto bytes = static_cast<off_t>(WholeNumber(info[2], "byteCount"));
    int result;
    do {
      result = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes);
    } while (result != 0 && errno == EINTR);
    if (result != 0 && errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL) {
      throw Failure::System("ERR_HOST_DESCRIPTOR", "a hole cannot be punched into a file",
                            "Check the storage under the file.");
    }
    return Napi::Boolean::New(info.Env(), result == 0);
  });
}

// (socket, bytes, descriptor): all of the bytes, the descriptor with the first of them.
Napi::Value SendDescriptor(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const auto socket = static_cast<int>(WholeNumber(info[0], "socket"));
    auto bytes = info[1].As<Napi::Uint8Array>();
    const auto passed = static_cast<int>(WholeNumber(info[2], "descriptor"));
    iovec part{bytes.Data(), bytes.ByteLength()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &passed, sizeof passed);
    ssize_t sent = 0;
    do {
      sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent != static_cast<ssize_t>(bytes.ByteLength())) {
      if (sent >= 0) errno = EAGAIN;
      throw Failure::System("ERR_HOST_SEND_DESCRIPTOR", "a descriptor could not be handed over",
                            "Check that the process at the other end is not frozen.");
    }
    return info.Env().Undefined();
  });
}

// (fd, bytesMax): what a connection brought and nobody read, without waiting for more.
Napi::Value ReadRest(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const int fd = DescriptorIn(info);
    const size_t bytes_max = WholeNumber(info[1], "bytesMax");
    std::vector<uint8_t> rest;
    while (rest.size() < bytes_max) {
      const size_t had = rest.size();
      rest.resize(std::min(bytes_max, had + kReadBytes));
      const ssize_t got = recv(fd, rest.data() + had, rest.size() - had, MSG_DONTWAIT);
      rest.resize(had + static_cast<size_t>(std::max<ssize_t>(got, 0)));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) break;
    }
    return Napi::Buffer<uint8_t>::Copy(info.Env(), rest.data(), rest.size());
  });
}

// (fd): its file is read once, front to back, and need not stay in memory on our account.
Napi::Value AdviseReadOnce(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    // Only advice: a file that does not heed it, or a kernel that does not know it, reads as well.
    posix_fadvise(DescriptorIn(info), 0, 0, POSIX_FADV_NOREUSE);
    return info.Env().Undefined();
  });
}

// (fd): only what is read is read, nothing ahead of it.
Napi::Value AdviseNoReadahead(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    posix_fadvise(DescriptorIn(info), 0, 0, POSIX_FADV_RANDOM);
    return info.Env().Undefined();
  });
}

// (fd, offset, bytes): what the kernel keeps of the pages of these bytes is given up, so that they are
// read anew.
Napi::Value ForgetCached(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const int fd = DescriptorIn(info);
    const auto page = static_cast<off_t>(sysconf(_SC_PAGESIZE));
    const auto offset = static_cast<off_t>(WholeNumber(info[1], "offset"));
    const auto end = offset + static_cast<off_t>(WholeNumber(info[2], "bytes"));
    // A page that is covered in part is kept.
    const off_t from = offset / page * page;
    posix_fadvise(fd, from, (end + page - 1) / page * page - from, POSIX_FADV_DONTNEED);
    return info.Env().Undefined();
  });
}

// (fd, offset): where the next bytes are that are no hole; -1 when there are none.
Napi::Value NextData(const Napi::CallbackInfo& info) {
  return AtBorder(info.Env(), [&] {
    const int fd = DescriptorIn(info);
    const auto offset = static_cast<off_t>(WholeNumber(info[1], "offset"));
    off_t data = lseek(fd, offset, SEEK_DATA);
    // What cannot tell its holes has none.
    if (data < 0 && errno != ENXIO) data = offset;
    return Napi::Number::New(info.Env(), static_cast<double>(data));
  });
}

}  // namespace

void InitDescriptors(Napi::Env env, Napi::Object exports) {
  exports.Set("duplicateDescriptor", Napi::Function::New(env, DuplicateDescriptor));
  exports.Set("listenAtPath", Napi::Function::New(env, ListenAtPath));
  exports.Set("closeDescriptor", Napi::Function::New(env, CloseDescriptor));
  exports.Set("shutDownSocket", Napi::Function::New(env, ShutDownSocket));
  exports.Set("punchHole", Napi::Function::New(env, PunchHole));
  exports.Set("adviseReadOnce", Napi::Function::New(env, AdviseReadOnce));
  exports.Set("adviseNoReadahead", Napi::Function::New(env, AdviseNoReadahead));
  exports.Set("forgetCached", Napi::Function::New(env, ForgetCached));
  exports.Set("nextData", Napi::Function::New(env, NextData));
  exports.Set("readRest", Napi::Function::New(env, ReadRest));
  exports.Set("sendDescriptor", Napi::Function::New(env, SendDescriptor));
}

}  // namespace romulus
