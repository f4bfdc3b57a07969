// The machine's sockets and the loop that serves them, in the process's main thread: control,
// net, disk and, with `--tracker mprotect`, the tracker (README.md has the protocols).
//
// Everything from a socket is checked and bounded: lines, blobs, frames, clients, what waits to be
// read by a client. A client that breaks a rule loses its connection, the machine goes on.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fd.h"
#include "sim_machine.h"

namespace romulus::sim {

constexpr size_t kClientsMax = 32;
constexpr size_t kLineBytesMax = 256;
// Replies that a control client has not read.
constexpr size_t kReplyBytesWaitingMax = size_t{4} << 20;
constexpr size_t kFrameBytesMax = 69'632;

class ControlClient;

class Server {
 public:
  Server(Machine& machine, std::string path, bool quit_with_parent);
  ~Server();

  // Binds all sockets; a socket file left by a dead machine is replaced, a living one is not.
  // Throws Failure.
  void Listen();
  // Until `quit` or SIGINT or SIGTERM.
  void Run();

 private:
  struct Peer;  // net, disk or tracker connection with what was read of a frame

  void AcceptAll(int listener, void (Server::*add)(Fd));
  void AddControl(Fd socket);
  void AddNet(Fd socket);
  void AddDisk(Fd socket);
  void AddTracker(Fd socket);
  void ServeControl(ControlClient& client);
  // One command; false when the client must go.
  bool Command(ControlClient& client, const std::string& line);
  void FinishLoad(ControlClient& client);
  bool Flush(ControlClient& client);
  std::string Information();
  void ReadNet();
  void ReadTracker();
  void WriteTracker();
  void UnlinkAll();

  Machine& machine_;
  std::string path_;
  bool quit_with_parent_;
  bool quit_ = false;
  uint64_t next_client_ = 1;
  uint64_t protocol_errors_ = 0;
  Fd control_listener_;
  Fd net_listener_;
  Fd disk_listener_;
  Fd tracker_listener_;
  Fd signals_;
  Fd pump_;  // eventfd: a line waits for its socket
  std::vector<std::string> bound_paths_;
  std::vector<std::unique_ptr<ControlClient>> clients_;
  std::vector<uint8_t> net_input_;
  int net_input_fd_ = -1;  // the connection that `net_input_` came from
  Fd tracker_;
  std::vector<uint8_t> tracker_output_;
};

}  // namespace romulus::sim
