#include "sim_resp.h"

#include "sim_kv.h"

namespace romulus::sim {

namespace {

constexpr size_t kNumberBytesMax = 20;
constexpr size_t kInlineBytesMax = kCommandBytesMax;

struct Line {
  bool complete = false;
  std::string_view text;
  size_t end = 0;  // after the line feed
};

Line LineAt(std::string_view buffer, size_t from) {
  const size_t feed = buffer.find('\n', from);
  if (feed == std::string_view::npos) return {};
  size_t length = feed - from;
  if (length > 0 && buffer[feed - 1] == '\r') length--;
  return {true, buffer.substr(from, length), feed + 1};
}

// -1 when it is not a plain decimal number.
int64_t NumberIn(std::string_view text) {
  if (text.empty() || text.size() > 9) return -1;
  int64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return -1;
    value = value * 10 + (c - '0');
  }
  return value;
}

RespRequest Error(std::string text) {
  RespRequest request;
  request.outcome = RespRequest::Outcome::kError;
  request.error = std::move(text);
  return request;
}

RespRequest Incomplete(std::string_view buffer) {
  if (buffer.size() > kCommandBytesMax) return Error("command too long");
  return {};
}

RespRequest ParseInline(std::string_view buffer) {
  const Line line = LineAt(buffer, 0);
  if (!line.complete) return Incomplete(buffer);
  if (line.text.size() > kInlineBytesMax) return Error("too big inline request");
  RespRequest request;
  request.outcome = RespRequest::Outcome::kCommand;
  request.consumed = line.end;
  size_t at = 0;
  while (at < line.text.size()) {
    const size_t begin = line.text.find_first_not_of(" \t", at);
    if (begin == std::string_view::npos) break;
    size_t end = line.text.find_first_of(" \t", begin);
    if (end == std::string_view::npos) end = line.text.size();
    if (request.arguments.size() == kArgumentsMax) return Error("too many arguments");
    request.arguments.push_back(line.text.substr(begin, end - begin));
    if (request.arguments.back().size() > kValueBytesMax) return Error("argument too long");
    at = end;
  }
  return request;
}

}  // namespace

RespRequest ParseRequest(std::string_view buffer) {
  if (buffer.empty()) return {};
  if (buffer[0] != '*') return ParseInline(buffer);
  const Line head = LineAt(buffer, 1);
  if (!head.complete) {
    return buffer.size() > kNumberBytesMax ? Error("invalid multibulk length") : RespRequest{};
  }
  const int64_t count = NumberIn(head.text);
  if (count < 0 || count > static_cast<int64_t>(kArgumentsMax)) {
    return Error("invalid multibulk length");
  }
  RespRequest request;
  size_t at = head.end;
  for (int64_t i = 0; i < count; i++) {
    if (at >= buffer.size()) return Incomplete(buffer);
    if (buffer[at] != '$') return Error("expected '$'");
    const Line size = LineAt(buffer, at + 1);
    if (!size.complete) {
      return buffer.size() - at > kNumberBytesMax ? Error("invalid bulk length")
                                                  : Incomplete(buffer);
    }
    const int64_t length = NumberIn(size.text);
    if (length < 0 || length > static_cast<int64_t>(kValueBytesMax)) {
      return Error("invalid bulk length, at most 8192 bytes");
    }
    const size_t end = size.end + static_cast<size_t>(length);
    if (buffer.size() < end + 2) return Incomplete(buffer);
    if (buffer[end] != '\r' || buffer[end + 1] != '\n') return Error("bulk without end of line");
    request.arguments.push_back(buffer.substr(size.end, static_cast<size_t>(length)));
    at = end + 2;
  }
  request.outcome = RespRequest::Outcome::kCommand;
  request.consumed = at;
  return request;
}

}  // namespace romulus::sim
