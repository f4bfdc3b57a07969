// Fuzzes what stands between the socket of a disk's mirror and JavaScript: the requests and the queue
// of an intake, under the sanitizers. Requests cut anywhere must come out whole, in order, each write
// before its reply; streams of anything must never leave their bounds, nor the disk's; and the queue
// must agree with a list. Usage: disk-fuzz SEED ROUNDS
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "nbd_requests.h"
#include "write_queue.h"

using romulus::NbdRequests;
using romulus::NbdSink;
using romulus::PieceMemory;
using romulus::QueuedPiece;
using romulus::WritePiece;
using romulus::WriteQueue;

namespace {

constexpr uint64_t kDiskBytes = (uint64_t{5} << 20) + 512;
constexpr uint64_t kBlockBytes = 64 << 10;

std::mt19937_64 g_random;

uint64_t Below(uint64_t bound) { return bound == 0 ? 0 : g_random() % bound; }

void Must(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::exit(1);
}

void Put(std::vector<uint8_t>* bytes, uint64_t value, int count) {
  for (int i = count - 1; i >= 0; --i) bytes->push_back(static_cast<uint8_t>(value >> (8 * i)));
}

struct Kept {
  uint64_t offset;
  uint64_t bytes;
  // Empty: zeros.
  std::vector<uint8_t> data;
};

// Keeps what it is given as plain data, and checks it against the bounds.
struct Keeper : NbdSink {
  std::vector<Kept> writes;
  size_t writes_max = SIZE_MAX;

  bool Write(std::vector<WritePiece>& pieces) override {
    if (writes.size() == writes_max) return false;
    Must(!pieces.empty(), "a write is something");
    Kept write = {pieces[0].offset, 0, {}};
    for (const WritePiece& piece : pieces) {
      Must(piece.offset == write.offset + write.bytes, "pieces follow each other");
      Must(piece.bytes > 0 && piece.offset + piece.bytes <= kDiskBytes, "pieces lie in the disk");
      Must(piece.data == nullptr || piece.bytes <= romulus::kPieceBytesMax, "pieces are bounded");
      write.bytes += piece.bytes;
      if (piece.data == nullptr) continue;
      write.data.insert(write.data.end(), piece.data.get(), piece.data.get() + piece.bytes);
    }
    Must(write.data.empty() || write.data.size() == write.bytes, "all or nothing has data");
    writes.push_back(std::move(write));
    return true;
  }
};

// Puts a stream in, in pieces of any size, where it asks for them.
NbdRequests::State Feed(NbdRequests& requests, const std::vector<uint8_t>& stream, NbdSink& sink) {
  auto state = NbdRequests::State::kOpen;
  for (size_t at = 0; at < stream.size() && state == NbdRequests::State::kOpen;) {
    std::array<iovec, 2> parts;
    const size_t count = requests.Room(&parts);
    size_t room = 0;
    for (size_t i = 0; i < count; ++i) room += parts[i].iov_len;
    Must(room > 0, "there is room for a read");
    const size_t left = std::min(room, stream.size() - at);
    const size_t bytes = 1 + (Below(3) == 0 ? Below(std::min<size_t>(left, 40)) : Below(left));
    size_t put = 0;
    for (size_t i = 0; i < count && put < bytes; ++i) {
      const size_t part = std::min(parts[i].iov_len, bytes - put);
      std::memcpy(parts[i].iov_base, stream.data() + at + put, part);
      put += part;
    }
    at += bytes;
    state = requests.Take(bytes, sink);
  }
  return state;
}

void PutRequest(std::vector<uint8_t>* stream, uint16_t flags, uint16_t type, uint64_t cookie,
                uint64_t offset, uint32_t length) {
  Put(stream, 0x25609513, 4);
  Put(stream, flags, 2);
  Put(stream, type, 2);
  Put(stream, cookie, 8);
  Put(stream, offset, 8);
  Put(stream, length, 4);
}

uint64_t AnyLength() {
  switch (Below(8)) {
    case 0:
    case 1: return 1 + Below(600);
    case 2:
    case 3: return 4096;
    case 4:
    case 5: return 1 + Below(100'000);
    case 6: return romulus::kPieceBytesMax;
    default: return 1 + Below(3 * romulus::kPieceBytesMax);
  }
}

struct Script {
  std::vector<uint8_t> stream;
  std::vector<Kept> writes;
  std::vector<std::pair<uint64_t, uint32_t>> replies;
};

// Requests that are well made, with what must come of them.
Script AnyScript() {
  Script script;
  for (size_t count = Below(12); count > 0; --count) {
    const uint64_t cookie = g_random();
    const uint64_t length = AnyLength();
    const uint64_t offset = Below(kDiskBytes - length + 1);
    switch (Below(4)) {
      case 0:
        PutRequest(&script.stream, static_cast<uint16_t>(Below(4)),
                   static_cast<uint16_t>(Below(2) == 0 ? 4 : 6), cookie, offset,
                   static_cast<uint32_t>(length));
        script.writes.push_back({offset, length, {}});
        script.replies.push_back({cookie, 0});
        break;
      case 1: {
        const auto type = static_cast<uint16_t>(std::array{0, 3, 5, 7, 99}[Below(5)]);
        PutRequest(&script.stream, 0, type, cookie, g_random(), static_cast<uint32_t>(g_random()));
        script.replies.push_back({cookie, type == 3 ? 0 : type == 0 ? 1 : 22});
        break;
      }
      default: {
        PutRequest(&script.stream, static_cast<uint16_t>(Below(2)), 1, cookie, offset,
                   static_cast<uint32_t>(length));
        std::vector<uint8_t> data(length);
        for (size_t i = 0; i < length; i += 8) {
          const uint64_t number = g_random();
          std::memcpy(&data[i], &number, std::min<size_t>(8, length - i));
        }
        script.stream.insert(script.stream.end(), data.begin(), data.end());
        script.writes.push_back({offset, length, std::move(data)});
        script.replies.push_back({cookie, 0});
      }
    }
  }
  return script;
}

void CheckWrites(const std::vector<Kept>& seen, const std::vector<Kept>& expected) {
  Must(seen.size() == expected.size(), "all writes came, and no other");
  for (size_t i = 0; i < seen.size(); ++i) {
    Must(seen[i].offset == expected[i].offset && seen[i].bytes == expected[i].bytes &&
             seen[i].data == expected[i].data,
         "writes come as they were, in order");
  }
}

void WellMade() {
  PieceMemory memory;
  const Script script = AnyScript();
  NbdRequests requests(kDiskBytes, &memory);
  Keeper keeper;
  Must(Feed(requests, script.stream, keeper) == NbdRequests::State::kOpen, "it stays open");
  Must(!requests.is_within(), "nothing is left");
  CheckWrites(keeper.writes, script.writes);
  std::vector<uint8_t> replies;
  for (const auto& [cookie, error] : script.replies) {
    Put(&replies, 0x67446698, 4);
    Put(&replies, error, 4);
    Put(&replies, cookie, 8);
  }
  Must(requests.replies() == replies, "each is answered, in order");
}

// The one thing that ends a connection, at the end of good requests, and noise behind it.
void Ended() {
  PieceMemory memory;
  Script script = AnyScript();
  NbdRequests requests(kDiskBytes, &memory);
  Keeper keeper;
  auto expected = NbdRequests::State::kBroken;
  switch (Below(6)) {
    case 0:
      PutRequest(&script.stream, 0, 2, 1, 0, 0);
      expected = NbdRequests::State::kEnded;
      break;
    case 1: PutRequest(&script.stream, 0, 1, 1, kDiskBytes, 1); break;
    case 2: PutRequest(&script.stream, 0, 1, 1, UINT64_MAX, 1); break;
    case 3: PutRequest(&script.stream, 0, 1, 1, 0, romulus::kNbdWriteBytesMax + 1); break;
    case 4: PutRequest(&script.stream, 0x8000, 1, 1, 0, 1); break;
    default: for (int i = 0; i < 28; ++i) script.stream.push_back(0x25);
  }
  for (size_t i = Below(300); i > 0; --i) script.stream.push_back(static_cast<uint8_t>(g_random()));
  const bool is_refused = !script.writes.empty() && Below(4) == 0;
  if (is_refused) {
    keeper.writes_max = Below(script.writes.size());
    script.writes.resize(keeper.writes_max);
    expected = NbdRequests::State::kRefused;
  }
  Must(Feed(requests, script.stream, keeper) == expected, "it ends as it must");
  Must(expected != NbdRequests::State::kBroken || !requests.breach().empty(), "and says why");
  Must(requests.Take(0, keeper) == expected, "and stays so");
  CheckWrites(keeper.writes, script.writes);
}

void AnyBytes() {
  PieceMemory memory;
  Script script = AnyScript();
  for (size_t hits = 1 + Below(4); hits > 0 && !script.stream.empty(); --hits) {
    const size_t at = Below(script.stream.size());
    const size_t end = std::min<size_t>(script.stream.size(), at + 1 + Below(64));
    for (size_t i = at; i < end; ++i) script.stream[i] = static_cast<uint8_t>(g_random());
  }
  NbdRequests requests(kDiskBytes, &memory);
  Keeper keeper;
  Feed(requests, script.stream, keeper);
  Must(requests.replies().size() % romulus::kNbdReplyBytes == 0, "replies are whole");
}

// What a queue must hold, as plain lists.
struct Model {
  std::vector<uint64_t> waiting;
  uint64_t received = 0;
  std::vector<bool> written = std::vector<bool>((kDiskBytes + kBlockBytes - 1) / kBlockBytes);

  void Note(uint64_t offset, uint64_t bytes) {
    for (uint64_t block = offset / kBlockBytes; block <= (offset + bytes - 1) / kBlockBytes;
         ++block) {
      written[block] = true;
    }
  }
};

// The first byte of a write's offset stands for it: they are told apart by that alone.
void CheckTaken(const std::vector<QueuedPiece>& taken, Model* model, size_t count) {
  size_t writes = 0;
  bool is_new = true;
  for (const QueuedPiece& queued : taken) {
    if (is_new) Must(queued.piece.offset == model->waiting[writes], "taken in order");
    is_new = queued.is_last;
    if (is_new) ++writes;
  }
  Must(is_new && writes == count, "whole writes are taken, as many as were asked for");
  model->waiting.erase(model->waiting.begin(), model->waiting.begin() + static_cast<long>(writes));
}

void Queue() {
  const size_t waiting_max = 1 + Below(size_t{8} << 20);
  const uint64_t before = Below(1000);
  WriteQueue queue({1000, kDiskBytes}, {waiting_max, kBlockBytes}, before);
  Model model;
  model.received = before;
  bool is_resting = false;
  std::vector<std::pair<uint64_t, uint64_t>> stretches;
  for (size_t steps = Below(200); steps > 0; --steps) {
    switch (Below(9)) {
      default: {
        std::vector<WritePiece> pieces;
        const uint64_t bytes = AnyLength();
        const uint64_t offset = Below(kDiskBytes - bytes + 1);
        const bool is_zero = Below(4) == 0;
        const uint64_t step = is_zero ? bytes : romulus::kPieceBytesMax;
        size_t weight = 0;
        for (uint64_t done = 0; done < bytes; done += step) {
          const uint64_t piece = std::min(step, bytes - done);
          weight += romulus::kEntryBytes + (is_zero ? 0 : piece);
          pieces.push_back({offset + done, piece,
                            is_zero ? nullptr : std::make_unique<uint8_t[]>(piece)});
        }
        const bool has_room = is_resting || queue.waiting_bytes() + weight <= waiting_max;
        Must(queue.Push(1, pieces) == has_room, "what has room is taken, and nothing else");
        if (!has_room) break;
        ++model.received;
        if (is_resting) model.Note(offset, bytes);
        else model.waiting.push_back(offset), stretches.push_back({offset, bytes});
        break;
      }
      case 6: {
        const size_t waiting = model.waiting.size();
        auto taken = queue.TakeSome(1 + Below(size_t{4} << 20));
        size_t writes = 0;
        for (const QueuedPiece& queued : taken) writes += queued.is_last ? 1 : 0;
        Must((writes > 0) == (waiting > 0), "something is taken if there is something");
        CheckTaken(taken, &model, writes);
        stretches.erase(stretches.begin(), stretches.begin() + static_cast<long>(writes));
        break;
      }
      case 7: {
        const size_t count = Below(model.waiting.size() + 1);
        CheckTaken(queue.TakeThrough(queue.taken() + count), &model, count);
        stretches.erase(stretches.begin(), stretches.begin() + static_cast<long>(count));
        break;
      }
      case 8: {
        if (!is_resting) {
          for (const auto& [offset, bytes] : stretches) model.Note(offset, bytes);
          queue.Rest();
          model.waiting.clear();
          stretches.clear();
        } else {
          const auto blocks = queue.Resume();
          for (size_t block = 0; block < model.written.size(); ++block) {
            Must(((blocks[1][block / 8] >> (block % 8)) & 1) == (model.written[block] ? 1 : 0),
                 "where it was written is known");
          }
          model.written.assign(model.written.size(), false);
        }
        is_resting = !is_resting;
      }
    }
    Must(queue.received() == model.received, "all are counted");
    Must(queue.received() - queue.taken() == model.waiting.size(), "the counts tell what waits");
    Must(queue.waiting_bytes() <= waiting_max, "what waits is bounded");
    Must((queue.waiting_bytes() == 0) == model.waiting.empty(), "it weighs something");
  }
}

}  // namespace

int main(int argument_count, char** arguments) {
  if (argument_count != 3) return 2;
  g_random.seed(std::strtoull(arguments[1], nullptr, 10));
  const long rounds = std::strtol(arguments[2], nullptr, 10);
  for (long round = 0; round < rounds; ++round) {
    WellMade();
    Ended();
    AnyBytes();
    Queue();
  }
  std::printf("%ld rounds\n", rounds);
  return 0;
}
