// System calls on descriptors that Node has no way to. All descriptors are borrowed but the one that
// duplicateDescriptor returns, which is the caller's. Any thread.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "areas.h"
#include "border.h"

namespace romulus {

namespace {

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

}  // namespace

void InitDescriptors(Napi::Env env, Napi::Object exports) {
  exports.Set("duplicateDescriptor", Napi::Function::New(env, DuplicateDescriptor));
  exports.Set("closeDescriptor", Napi::Function::New(env, CloseDescriptor));
  exports.Set("shutDownSocket", Napi::Function::New(env, ShutDownSocket));
  exports.Set("punchHole", Napi::Function::New(env, PunchHole));
}

}  // namespace romulus
