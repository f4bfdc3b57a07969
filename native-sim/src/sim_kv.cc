// The server's commands and streams; the table they work on is sim_kv_store.cc.
#include "sim_kv.h"

#include <strings.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "sim_kv_layout.h"
#include "sim_program.h"
#include "sim_resp.h"

namespace romulus::sim {

namespace {

bool Is(std::string_view text, std::string_view word) {
  return text.size() == word.size() && strncasecmp(text.data(), word.data(), word.size()) == 0;
}

void AppendBulk(std::string& target, std::string_view data) {
  target += '$';
  target += std::to_string(data.size());
  target += "\r\n";
  target += data;
  target += "\r\n";
}

void AppendInteger(std::string& target, int64_t value) {
  target += ':';
  target += std::to_string(value);
  target += "\r\n";
}

bool ParseInteger(std::string_view text, int64_t& value) {
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  return result.ec == std::errc() && result.ptr == end && !text.empty();
}

constexpr std::string_view kOutOfMemory =
    "-OOM command not allowed when the machine's memory is full\r\n";
constexpr std::string_view kDamaged = "-ERR the machine's memory is damaged\r\n";

}  // namespace

KvServer::Superblock& KvServer::super() { return *reinterpret_cast<Superblock*>(ram_); }

KvServer::StreamSlot& KvServer::slot_at(uint64_t slot) {
  return reinterpret_cast<StreamSlot*>(ram_ + kStreamTableOffset)[slot];
}

uint8_t* KvServer::buffer_of(uint64_t slot) {
  return ram_ + kStreamBuffersOffset + slot * kStreamBufferBytes;
}

int64_t KvServer::SlotOf(uint32_t stream) {
  for (uint64_t i = 0; i < kStreamsMax; i++) {
    const StreamSlot& slot = slot_at(i);
    if (slot.open == 1 && slot.stream == stream) return static_cast<int64_t>(i);
  }
  return -1;
}

void KvServer::OpenStream(uint32_t stream) {
  int64_t found = SlotOf(stream);
  for (uint64_t i = 0; found < 0 && i < kStreamsMax; i++) {
    if (slot_at(i).open != 1) found = static_cast<int64_t>(i);
  }
  if (found < 0) {
    reply_.data = "-ERR max number of clients reached\r\n";
    reply_.close = true;
    return;
  }
  StreamSlot& slot = slot_at(static_cast<uint64_t>(found));
  slot.stream = stream;
  slot.open = 1;
  slot.buffered_bytes = 0;
}

void KvServer::Consume(const Input& input) {
  reply_ = {};
  reply_.stream = input.stream;
  if (input.op == InputOp::kOpen) return OpenStream(input.stream);
  const int64_t found = SlotOf(input.stream);
  if (input.op == InputOp::kClose || found < 0) {
    if (found >= 0) slot_at(static_cast<uint64_t>(found)).open = 0;
    reply_.close = true;
    return;
  }
  const uint64_t slot = static_cast<uint64_t>(found);
  StreamSlot& stream = slot_at(slot);
  if (stream.buffered_bytes > kStreamBufferBytes ||
      input.data.size() > kStreamBufferBytes - stream.buffered_bytes) {
    reply_.data = kDamaged;
    reply_.close = true;
    stream.open = 0;
    return;
  }
  std::memcpy(buffer_of(slot) + stream.buffered_bytes, input.data.data(), input.data.size());
  stream.buffered_bytes += static_cast<uint32_t>(input.data.size());
  RunCommands(slot);
}

void KvServer::Continue(uint64_t slot) {
  reply_ = {};
  if (slot >= kStreamsMax) return;
  reply_.stream = slot_at(slot).stream;
  RunCommands(slot);
}

void KvServer::RunCommands(uint64_t slot_number) {
  StreamSlot& slot = slot_at(slot_number);
  reply_.slot = slot_number;
  const size_t length = std::min<size_t>(slot.buffered_bytes, kStreamBufferBytes);
  const char* buffer = reinterpret_cast<const char*>(buffer_of(slot_number));
  size_t done = 0;
  for (size_t commands = 0; !reply_.close; commands++) {
    if (commands == kCommandsPerStep || reply_.data.size() >= kReplyBytesPerStep) {
      reply_.more = true;
      break;
    }
    const RespRequest request = ParseRequest({buffer + done, length - done});
    if (request.outcome == RespRequest::Outcome::kIncomplete) break;
    if (request.outcome == RespRequest::Outcome::kError) {
      reply_.data += "-ERR Protocol error: " + request.error + "\r\n";
      reply_.close = true;
      break;
    }
    done += request.consumed;
    if (request.arguments.empty()) continue;
    super().commands++;
    try {
      Execute(request.arguments);
    } catch (const DamagedMemory&) {
      reply_.data += kDamaged;
    }
  }
  if (reply_.close) {
    slot.open = 0;
    slot.buffered_bytes = 0;
    return;
  }
  std::memmove(buffer_of(slot_number), buffer + done, length - done);
  slot.buffered_bytes = static_cast<uint32_t>(length - done);
}

void KvServer::Execute(const std::vector<std::string_view>& arguments) {
  const std::string_view name = arguments[0];
  const size_t count = arguments.size();
  std::string& out = reply_.data;
  const auto takes = [&](size_t least, size_t most) {
    if (count >= least && count <= most) return true;
    out += "-ERR wrong number of arguments for '";
    out += name.substr(0, 32);
    out += "' command\r\n";
    return false;
  };
  if (Is(name, "GET")) {
    if (takes(2, 2)) Get(arguments[1]);
  } else if (Is(name, "SET")) {
    if (count > 3) {
      out += "-ERR syntax error: SET takes no options here\r\n";
    } else if (takes(3, 3)) {
      Set(arguments[1], arguments[2]);
    }
  } else if (Is(name, "INCR")) {
    if (takes(2, 2)) Increment(arguments[1]);
  } else if (Is(name, "DEL") || Is(name, "EXISTS")) {
    if (!takes(2, kArgumentsMax)) return;
    int64_t hits = 0;
    for (size_t i = 1; i < count; i++) {
      Entry* entry = nullptr;
      if (Is(name, "DEL")) {
        hits += Erase(arguments[i]) ? 1 : 0;
      } else {
        Find(arguments[i], &entry);
        hits += entry != nullptr ? 1 : 0;
      }
    }
    AppendInteger(out, hits);
  } else if (Is(name, "PING")) {
    if (!takes(1, 2)) return;
    if (count == 2) {
      AppendBulk(out, arguments[1]);
    } else {
      out += "+PONG\r\n";
    }
  } else if (Is(name, "ECHO")) {
    if (takes(2, 2)) AppendBulk(out, arguments[1]);
  } else if (Is(name, "DBSIZE")) {
    if (takes(1, 1)) AppendInteger(out, static_cast<int64_t>(super().keys));
  } else if (Is(name, "INFO")) {
    Information();
  } else if (Is(name, "FLUSHALL") || Is(name, "FLUSHDB")) {
    if (super().flush_number >= kFlushNumberMax) {
      out += "-ERR too many flushes\r\n";
      return;
    }
    const uint64_t commands = super().commands;
    const uint64_t flush_number = super().flush_number + 1;
    super() = {};
    super().flush_number = flush_number;
    super().commands = commands;
    out += "+OK\r\n";
  } else if (Is(name, "SELECT")) {
    if (!takes(2, 2)) return;
    out += arguments[1] == "0" ? "+OK\r\n" : "-ERR DB index is out of range\r\n";
  } else if (Is(name, "CONFIG")) {
    if (!takes(2, 3)) return;
    if (!Is(arguments[1], "GET") || count != 3) {
      out += "-ERR only CONFIG GET is known here\r\n";
    } else if (Is(arguments[2], "save") || Is(arguments[2], "appendonly")) {
      out += "*2\r\n";
      AppendBulk(out, arguments[2]);
      AppendBulk(out, Is(arguments[2], "save") ? "" : "no");
    } else {
      out += "*0\r\n";
    }
  } else if (Is(name, "COMMAND")) {
    out += "*0\r\n";
  } else if (Is(name, "CLIENT")) {
    out += "+OK\r\n";
  } else if (Is(name, "QUIT")) {
    out += "+OK\r\n";
    reply_.close = true;
  } else {
    out += "-ERR unknown command '";
    for (const char c : name.substr(0, 64)) out += c >= ' ' && c < 127 ? c : '?';
    out += "'\r\n";
  }
}

void KvServer::Get(std::string_view key) {
  Entry* entry = nullptr;
  Find(key, &entry);
  if (entry == nullptr) {
    reply_.data += "$-1\r\n";
  } else {
    AppendBulk(reply_.data, ValueOf(*entry));
  }
}

void KvServer::Set(std::string_view key, std::string_view value) {
  if (key.size() > kKeyBytesMax) {
    reply_.data += "-ERR a key may be 512 bytes long\r\n";
    return;
  }
  reply_.data += Store(key, value) ? std::string_view("+OK\r\n") : kOutOfMemory;
}

void KvServer::Increment(std::string_view key) {
  if (key.size() > kKeyBytesMax) {
    reply_.data += "-ERR a key may be 512 bytes long\r\n";
    return;
  }
  Entry* entry = nullptr;
  Find(key, &entry);
  int64_t value = 0;
  if ((entry != nullptr && !ParseInteger(ValueOf(*entry), value)) || value == INT64_MAX) {
    reply_.data += "-ERR value is not an integer or out of range\r\n";
    return;
  }
  value++;
  if (Store(key, std::to_string(value))) {
    AppendInteger(reply_.data, value);
  } else {
    reply_.data += kOutOfMemory;
  }
}

void KvServer::Information() {
  const Superblock& block = super();
  std::string text = "# Server\r\nredis_version:7.0.0\r\nredis_mode:standalone\r\nos:romulus-sim\r\n";
  text += "# Clients\r\nconnected_clients:";
  uint64_t clients = 0;
  for (uint64_t i = 0; i < kStreamsMax; i++) clients += slot_at(i).open == 1 ? 1 : 0;
  text += std::to_string(clients);
  text += "\r\n# Memory\r\nused_memory:" + std::to_string(block.heap_used);
  text += "\r\nmaxmemory:" + std::to_string(heap_bytes_);
  text += "\r\n# Stats\r\ntotal_commands_processed:" + std::to_string(block.commands);
  text += "\r\n# Replication\r\nrole:master\r\n# Keyspace\r\ndb0:keys=" + std::to_string(block.keys);
  text += ",expires=0,avg_ttl=0\r\n";
  AppendBulk(reply_.data, text);
}

uint64_t KvServer::InternalOperation(uint64_t random) {
  const uint64_t keys = std::min<uint64_t>(kInternalKeysMax, heap_bytes_ / kInternalBytesPerKey);
  const uint64_t second = Mix64(random);
  const std::string key = "load:" + std::to_string(second % keys);
  uint64_t digest = second;
  try {
    Entry* entry = nullptr;
    Find(key, &entry);
    if (entry != nullptr) {
      for (const char c : ValueOf(*entry)) digest = Mix64(digest ^ static_cast<uint8_t>(c));
    }
    if (random % 4 == 0) return digest;  // a read
    std::string value(kInternalValueBytes, '\0');
    for (size_t i = 0; i < kInternalValueBytes; i += 8) {
      const uint64_t word = Mix64(digest + i);
      std::memcpy(value.data() + i, &word, 8);
    }
    if (!Store(key, value)) digest = ~digest;
  } catch (const DamagedMemory&) {
    digest = Mix64(~digest);
  }
  return digest;
}

}  // namespace romulus::sim
