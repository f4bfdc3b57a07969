// RESP2 requests: finds the next command in a buffer. Bounded in every direction, copies nothing.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace romulus::sim {

struct RespRequest {
  enum class Outcome { kIncomplete, kCommand, kError };
  Outcome outcome = Outcome::kIncomplete;
  size_t consumed = 0;                       // kCommand: bytes to take off the buffer
  std::vector<std::string_view> arguments;   // kCommand: views into the buffer; empty: a blank line
  std::string error;                         // kError: the text after "-ERR Protocol error: "
};

// `buffer` is what a client sent and has not been executed yet: any bytes at all.
RespRequest ParseRequest(std::string_view buffer);

}  // namespace romulus::sim
