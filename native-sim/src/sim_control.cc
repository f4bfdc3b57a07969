// The commands of the control socket: one line each, answered in order (README.md lists them).
#include "sim_control.h"

#include <sys/prctl.h>
#include <sys/socket.h>

#include <cerrno>
#include <charconv>
#include <cinttypes>
#include <cstdio>
#include <optional>

#include "sim_server.h"

namespace romulus::sim {

namespace {

constexpr size_t kReadBytes = 65'536;

std::optional<uint64_t> NumberIn(std::string_view text) {
  uint64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) return std::nullopt;
  return value;
}

void Refuse(ControlClient& client, const char* code, const std::string& message) {
  client.output += std::string("err ") + code + " " + message + "\n";
}

// Bytes that are safe to repeat in an answer of one line.
std::string Printable(std::string_view text) {
  std::string clean;
  for (const char c : text.substr(0, 40)) clean += c >= ' ' && c < 127 ? c : '?';
  return clean;
}

}  // namespace

bool Server::Flush(ControlClient& client) {
  while (!client.output.empty()) {
    const ssize_t sent = send(client.fd(), client.output.data(), client.output.size(),
                              MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return errno == EAGAIN && client.output.size() <= kReplyBytesWaitingMax;
    client.output.erase(0, static_cast<size_t>(sent));
  }
  return !client.closing;
}

void Server::ServeControl(ControlClient& client) {
  char chunk[kReadBytes];
  const ssize_t got = recv(client.fd(), chunk, sizeof chunk, MSG_DONTWAIT);
  if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
    client.gone = true;
    return;
  }
  size_t at = 0;
  const size_t length = got > 0 ? static_cast<size_t>(got) : 0;
  while (at < length && !client.closing) {
    if (client.loading) {
      const size_t part = std::min(client.load_bytes - client.load.size(), length - at);
      client.load.insert(client.load.end(), chunk + at, chunk + at + part);
      at += part;
    } else {
      const char c = chunk[at++];
      if (c != '\n') {
        client.input += c;
        if (client.input.size() > kLineBytesMax) {
          protocol_errors_++;
          Refuse(client, "ERR_PROTOCOL_CONTROL_LINE", "a command may be 256 bytes long");
          client.closing = true;
        }
        continue;
      }
      const std::string line = std::exchange(client.input, {});
      if (!Command(client, line)) client.closing = true;
      if (client.output.size() > kReplyBytesWaitingMax && !Flush(client)) {
        client.gone = true;
        return;
      }
    }
    if (client.loading && client.load.size() == client.load_bytes) FinishLoad(client);
  }
  if (!Flush(client)) client.gone = true;
}

void Server::FinishLoad(ControlClient& client) {
  client.loading = false;
  const std::string why = machine_.Load(client.load);
  client.load.clear();
  if (why.empty()) {
    client.output += "ok\n";
  } else {
    Refuse(client, "ERR_INTEGRITY_DEVICE_STATE", why);
  }
}

bool Server::Command(ControlClient& client, const std::string& line) {
  const size_t space = line.find(' ');
  const std::string verb = line.substr(0, space);
  const std::string argument = space == std::string::npos ? "" : line.substr(space + 1);
  const std::optional<uint64_t> number = NumberIn(argument);
  if (verb == "stop") {
    StopReport report {};
    if (!machine_.Stop(client.id(), report)) {
      Refuse(client, "ERR_GUEST_CANNOT_SUSPEND", "the machine is busy and cannot stop now");
      return true;
    }
    char text[128];
    snprintf(text, sizeof text, "ok frames=%" PRIu64 " diskwrites=%" PRIu64 " step=%" PRIu64 "\n",
             report.frames, report.disk_writes, report.step);
    client.output += text;
    // At once: whoever waits for it begins to copy pages while the next command is served.
    return Flush(client);
  }
  if (verb == "save") {
    const std::vector<uint8_t> state = machine_.Save();
    if (state.empty()) {
      Refuse(client, "ERR_GUEST_RUNNING", "the state of a running machine cannot be saved: stop it");
      return true;
    }
    client.output += "ok bytes=" + std::to_string(state.size()) + "\n";
    client.output.append(reinterpret_cast<const char*>(state.data()), state.size());
    return true;
  }
  if (verb == "cont") {
    if (!machine_.Continue()) {
      Refuse(client, "ERR_GUEST_NO_STATE", "an incoming machine must load its state first");
      return true;
    }
    // From here on the machine outlives who started it.
    if (quit_with_parent_) prctl(PR_SET_PDEATHSIG, 0);
    quit_with_parent_ = false;
    client.output += "ok\n";
    return true;
  }
  if (verb == "load") {
    if (!number || *number > 2 * kDeviceStateBytes) {
      Refuse(client, "ERR_PROTOCOL_CONTROL_LINE", "load needs the length of a device state");
      return false;
    }
    client.loading = true;
    client.load_bytes = *number;
    return true;
  }
  if (verb == "rate" && number && *number <= kRateMax) {
    machine_.SetRate(*number);
    client.output += "ok\n";
  } else if (verb == "busy" && (argument == "on" || argument == "off")) {
    machine_.SetBusy(argument == "on");
    client.output += "ok\n";
  } else if (verb == "stop-at" && number) {
    if (machine_.StopAt(client.id(), *number)) {
      client.output += "ok\n";
    } else {
      Refuse(client, "ERR_GUEST_PAST_STEP", "the machine is past that step");
    }
  } else if (verb == "status") {
    const MachineStatus status = machine_.Status();
    char text[128];
    snprintf(text, sizeof text, "ok running=%d step=%" PRIu64 " input=%" PRIu64 "\n",
             status.running ? 1 : 0, status.registers.step, status.registers.input_seq);
    client.output += text;
  } else if (verb == "info") {
    client.output += "ok " + Information() + "\n";
  } else if (verb == "quit") {
    client.output += "ok\n";
    quit_ = true;
  } else {
    Refuse(client, "ERR_PROTOCOL_CONTROL_COMMAND",
           "unknown command or argument '" + Printable(line) + "'");
  }
  return true;
}

std::string Server::Information() {
  const MachineStatus status = machine_.Status();
  const MachineSettings& settings = machine_.settings();
  const Registers& registers = status.registers;
  std::string json;
  const auto number = [&](const char* key, uint64_t value) {
    json += json.empty() ? "{\"" : ",\"";
    json += key;
    json += "\":" + std::to_string(value);
  };
  const auto text = [&](const char* key, const std::string& value) {
    json += std::string(",\"") + key + "\":\"" + value + "\"";
  };
  const auto truth = [&](const char* key, bool value) {
    json += std::string(",\"") + key + "\":" + (value ? "true" : "false");
  };
  char address[32];
  snprintf(address, sizeof address, "0x%" PRIx64,
           reinterpret_cast<uint64_t>(machine_.ram().data()));
  number("protocolVersion", 1);
  number("pid", static_cast<uint64_t>(getpid()));
  number("memoryBytes", settings.program.memory_bytes);
  text("ramAddress", address);
  number("ramFd", static_cast<uint64_t>(machine_.ram().fd()));
  number("diskBytes", settings.program.disk_bytes);
  number("diskFd", static_cast<uint64_t>(machine_.disk().fd()));
  text("workload", NameOf(settings.program.workload));
  // As text: JSON numbers lose bits above 2^53.
  text("seed", std::to_string(settings.program.seed));
  number("rate", status.rate);
  number("beacons", settings.program.beacons);
  text("tracker", settings.mprotect_tracker ? "mprotect" : "none");
  number("deviceStateBytes", kDeviceStateBytes);
  truth("running", status.running);
  truth("busy", status.busy);
  number("step", registers.step);
  number("emitSeq", registers.emit_seq);
  number("inputSeq", registers.input_seq);
  number("diskWrites", registers.disk_writes);
  text("hash", std::to_string(registers.hash));
  truth("netConnected", status.net_connected);
  truth("diskConnected", status.disk_connected);
  number("framesSent", status.frames);
  number("diskFramesSent", status.disk_writes);
  number("ringFrames", status.ring_frames);
  number("ringBytes", status.ring_bytes);
  number("inputsQueued", status.inputs_queued);
  number("emitsDropped", status.statistics.beacons_dropped);
  number("inputsDropped", status.statistics.inputs_dropped);
  number("lineStalls", status.statistics.line_stalls);
  number("ringStalls", status.statistics.ring_stalls);
  number("protocolErrors", protocol_errors_);
  return json + "}";
}

}  // namespace romulus::sim
