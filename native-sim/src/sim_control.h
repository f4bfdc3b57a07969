// One connection to the control socket: what was read and not yet understood, what was answered and
// not yet taken.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fd.h"

namespace romulus::sim {

class ControlClient {
 public:
  ControlClient(Fd socket, uint64_t id) : socket_(std::move(socket)), id_(id) {}

  int fd() const { return socket_.get(); }
  uint64_t id() const { return id_; }

  std::string input;
  std::string output;
  // Bytes of a `load` still to come, and those that came.
  size_t load_bytes = 0;
  std::vector<uint8_t> load;
  bool loading = false;
  bool gone = false;     // to be removed
  bool closing = false;  // no more commands; goes when its output is written

 private:
  Fd socket_;
  uint64_t id_;
};

}  // namespace romulus::sim
