// Sockets and the loop. What the control commands mean is sim_control.cc.
#include "sim_server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "failure.h"
#include "priority.h"
#include "sim_control.h"

namespace romulus::sim {

namespace {

constexpr size_t kReadBytes = 65'536;
constexpr int kBacklog = 16;

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    throw Failure("ERR_USAGE_SOCKET_PATH", "the socket path " + path + " is too long",
                  "Give a --socket path of at most 99 bytes.");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

// A socket file may be left from a machine that was killed. It is ours to replace only when
// nobody answers there.
void RemoveStale(const std::string& path, const sockaddr_un& address) {
  struct stat facts {};
  if (lstat(path.c_str(), &facts) != 0) return;
  if (!S_ISSOCK(facts.st_mode)) {
    throw Failure("ERR_USAGE_SOCKET_PATH", path + " exists and is not a socket",
                  "Give another --socket path or remove that file.");
  }
  const Fd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int answer = connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  if (answer == 0 || errno != ECONNREFUSED) {
    throw Failure("ERR_USAGE_SOCKET_IN_USE", "a process listens at " + path,
                  "Give another --socket path or end that machine.");
  }
  unlink(path.c_str());
}

Fd ListenAt(const std::string& path) {
  const sockaddr_un address = AddressOf(path);
  RemoveStale(path, address);
  Fd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener.valid() ||
      bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      chmod(path.c_str(), 0600) != 0 || listen(listener.get(), kBacklog) != 0) {
    throw Failure::System("ERR_USAGE_SOCKET_PATH", "cannot listen at " + path,
                          "Give a --socket path in a directory that you may write to.");
  }
  return listener;
}

// Of what came from the world; false when it can be none of the protocol's frames.
bool ParseFromWorld(const uint8_t* payload, size_t bytes, Machine::FromWorld& frame) {
  if (bytes < kInputHeaderBytes) return false;
  uint64_t seq = 0;
  uint32_t stream = 0;
  std::memcpy(&stream, payload + 4, 4);
  std::memcpy(&seq, payload + 8, 8);
  frame.hello = payload[0] == kKindHello;
  if (frame.hello) return bytes == kInputHeaderBytes;
  frame.acknowledge = payload[0] == kKindAcknowledge;
  if (frame.acknowledge) {
    frame.acknowledged_seq = seq;
    return bytes == kInputHeaderBytes;
  }
  if (payload[0] != kKindInput || payload[1] > static_cast<uint8_t>(InputOp::kClose)) return false;
  if (bytes - kInputHeaderBytes > kInputDataBytesMax) return false;
  frame.input.seq = seq;
  frame.input.op = static_cast<InputOp>(payload[1]);
  frame.input.stream = stream;
  frame.input.data.assign(reinterpret_cast<const char*>(payload + kInputHeaderBytes),
                          bytes - kInputHeaderBytes);
  return true;
}

}  // namespace

Server::Server(Machine& machine, std::string path, bool quit_with_parent)
    : machine_(machine), path_(std::move(path)), quit_with_parent_(quit_with_parent) {}

Server::~Server() { UnlinkAll(); }

void Server::UnlinkAll() {
  for (const std::string& path : bound_paths_) unlink(path.c_str());
  bound_paths_.clear();
}

void Server::Listen() {
  const auto listen_at = [&](const char* suffix) {
    Fd listener = ListenAt(path_ + suffix);
    bound_paths_.push_back(path_ + suffix);
    return listener;
  };
  net_listener_ = listen_at(".net");
  disk_listener_ = listen_at(".disk");
  if (machine_.settings().mprotect_tracker) tracker_listener_ = listen_at(".tracker");
  // Last: who can reach the control socket can reach the others.
  control_listener_ = listen_at("");
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  signals_ = Fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  pump_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!signals_.valid() || !pump_.valid()) {
    throw Failure::System("ERR_HOST_DESCRIPTORS", "cannot make a signalfd or eventfd",
                          "Raise the limit of open files (ulimit -n).");
  }
  const int pump = pump_.get();
  machine_.set_on_blocked([pump] {
    const uint64_t one = 1;
    // A full counter is as good as one more: the loop wakes either way.
    [[maybe_unused]] const ssize_t written = write(pump, &one, sizeof one);
  });
}

void Server::AcceptAll(int listener, void (Server::*add)(Fd)) {
  for (;;) {
    Fd socket(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.valid()) return;
    (this->*add)(std::move(socket));
  }
}

void Server::AddControl(Fd socket) {
  if (clients_.size() >= kClientsMax) return;  // closed by going out of scope
  clients_.push_back(std::make_unique<ControlClient>(std::move(socket), next_client_++));
}

void Server::AddNet(Fd socket) {
  net_input_.clear();
  net_input_fd_ = socket.get();
  machine_.AttachNet(std::move(socket));
}

void Server::AddDisk(Fd socket) { machine_.AttachDisk(std::move(socket)); }

void Server::AddTracker(Fd socket) {
  tracker_ = std::move(socket);
  tracker_output_.clear();
}

void Server::Run() {
  // Everything here is short, and somebody waits for a stop: its answer must not queue behind the
  // vCPU, which never sleeps at an unlimited rate, nor behind the host's other work.
  const Urgent urgent;
  std::vector<pollfd> polled;
  while (!quit_) {
    bool net_waits = false;
    bool disk_waits = false;
    const int timeout_ms = machine_.PumpLines(net_waits, disk_waits);
    polled.clear();
    const auto watch = [&](int fd, short events) {
      polled.push_back({fd, events, 0});
      return polled.size() - 1;
    };
    const size_t at_signals = watch(signals_.get(), POLLIN);
    const size_t at_pump = watch(pump_.get(), POLLIN);
    const size_t at_control = watch(control_listener_.get(), POLLIN);
    const size_t at_net_listener = watch(net_listener_.get(), POLLIN);
    const size_t at_disk_listener = watch(disk_listener_.get(), POLLIN);
    const size_t at_tracker_listener = watch(tracker_listener_.get(), POLLIN);
    const size_t at_net = watch(machine_.net_fd(), static_cast<short>(POLLIN | (net_waits ? POLLOUT : 0)));
    const size_t at_disk = watch(machine_.disk_socket_fd(), static_cast<short>(POLLIN | (disk_waits ? POLLOUT : 0)));
    const size_t at_tracker = watch(tracker_.get(), static_cast<short>(tracker_output_.empty() ? POLLIN : POLLIN | POLLOUT));
    const size_t first_client = polled.size();
    for (const auto& client : clients_) {
      watch(client->fd(), static_cast<short>(client->output.empty() ? POLLIN : POLLIN | POLLOUT));
    }
    if (poll(polled.data(), polled.size(), timeout_ms) < 0) {
      if (errno == EINTR) continue;
      throw Failure::System("ERR_HOST_POLL", "cannot wait for sockets", "Restart the machine.");
    }
    const auto ready = [&](size_t at) { return polled[at].revents != 0; };
    // New lines before control: who connected a line and then asked for a stop must find the frames
    // of that line counted. Then control, so that a stop waits for nothing else.
    if (ready(at_net_listener)) AcceptAll(net_listener_.get(), &Server::AddNet);
    if (ready(at_disk_listener)) AcceptAll(disk_listener_.get(), &Server::AddDisk);
    const size_t client_count = clients_.size();
    for (size_t i = 0; i < client_count; i++) {
      if (ready(first_client + i)) ServeControl(*clients_[i]);
    }
    for (const auto& client : clients_) {
      if (client->gone) machine_.Release(client->id());
    }
    std::erase_if(clients_, [](const auto& client) { return client->gone; });
    if (ready(at_signals)) quit_ = true;
    if (ready(at_pump)) {
      uint64_t count = 0;
      [[maybe_unused]] const ssize_t taken = read(pump_.get(), &count, sizeof count);
    }
    if (ready(at_net)) ReadNet();
    // Not when it was replaced in this round: the readiness is the old one's.
    if ((polled[at_disk].revents & ~POLLOUT) != 0 &&
        polled[at_disk].fd == machine_.disk_socket_fd() && !ready(at_disk_listener)) {
      // Nobody has anything to say here: bytes or an end mean that the reader is gone.
      machine_.DetachDisk();
    }
    if (ready(at_tracker)) ReadTracker();
    if (ready(at_tracker_listener)) AcceptAll(tracker_listener_.get(), &Server::AddTracker);
    if (ready(at_control)) AcceptAll(control_listener_.get(), &Server::AddControl);
  }
}

void Server::ReadNet() {
  const int fd = machine_.net_fd();
  if (fd < 0) return;  // given up meanwhile
  uint8_t chunk[kReadBytes];
  const ssize_t got = recv(fd, chunk, sizeof chunk, MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) {
    machine_.DetachNet();
    net_input_.clear();
    return;
  }
  net_input_.insert(net_input_.end(), chunk, chunk + got);
  std::vector<Machine::FromWorld> frames;
  size_t at = 0;
  while (net_input_.size() - at >= 4) {
    const uint8_t* head = net_input_.data() + at;
    const size_t length = static_cast<size_t>(head[0]) << 24 | static_cast<size_t>(head[1]) << 16 |
                          static_cast<size_t>(head[2]) << 8 | head[3];
    if (length > kFrameBytesMax) {
      protocol_errors_++;
      machine_.DetachNet();
      net_input_.clear();
      return;
    }
    if (net_input_.size() - at - 4 < length) break;
    Machine::FromWorld frame {};
    if (ParseFromWorld(head + 4, length, frame)) {
      frames.push_back(std::move(frame));
    } else {
      protocol_errors_++;
    }
    at += 4 + length;
  }
  net_input_.erase(net_input_.begin(), net_input_.begin() + static_cast<ptrdiff_t>(at));
  if (!frames.empty()) machine_.Receive(std::move(frames));
}

void Server::ReadTracker() {
  uint8_t request = 0;
  const ssize_t got = recv(tracker_.get(), &request, 1, MSG_DONTWAIT);
  if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR) || (got == 1 && request != 'C')) {
    if (got == 1) protocol_errors_++;
    tracker_.Reset();
    tracker_output_.clear();
    return;
  }
  // Asking again before the answer was read would queue answers without bound.
  if (got == 1 && tracker_output_.empty()) {
    const std::vector<uint8_t> bitmap = machine_.CollectDirty();
    const uint64_t length = bitmap.size();
    const auto* bytes = reinterpret_cast<const uint8_t*>(&length);
    tracker_output_.assign(bytes, bytes + sizeof length);
    tracker_output_.insert(tracker_output_.end(), bitmap.begin(), bitmap.end());
  }
  WriteTracker();
}

void Server::WriteTracker() {
  while (!tracker_output_.empty()) {
    const ssize_t sent = send(tracker_.get(), tracker_output_.data(), tracker_output_.size(),
                              MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent <= 0) return;  // an end shows as POLLHUP, then as a read of 0
    tracker_output_.erase(tracker_output_.begin(), tracker_output_.begin() + sent);
  }
}

}  // namespace romulus::sim
