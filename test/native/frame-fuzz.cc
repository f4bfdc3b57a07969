// Fuzzes what stands between a socket and JavaScript: the decoder and the queue of a tap, under the
// sanitizers. Streams of frames cut anywhere must come out whole, in order and counted; streams of
// anything must never leave their bounds. Usage: frame-fuzz SEED ROUNDS
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "frame_decoder.h"
#include "frame_queue.h"

using romulus::FrameDecoder;
using romulus::FrameQueue;

namespace {

std::mt19937_64 g_random;

size_t Below(size_t bound) { return bound == 0 ? 0 : g_random() % bound; }

void Must(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::exit(1);
}

std::vector<uint8_t> Frame(size_t payload_bytes) {
  std::vector<uint8_t> frame(4 + payload_bytes);
  for (int i = 0; i < 4; ++i) frame[i] = static_cast<uint8_t>(payload_bytes >> (24 - 8 * i));
  for (size_t i = 4; i < frame.size(); ++i) frame[i] = static_cast<uint8_t>(g_random());
  return frame;
}

size_t AnyLength() {
  switch (Below(5)) {
    case 0: return 0;
    case 1: return Below(60);
    case 2: return Below(1515);
    case 3: return romulus::kFramePayloadBytesMax - Below(3);
    default: return Below(romulus::kFramePayloadBytesMax + 1);
  }
}

// Feeds a stream in pieces of any size; gives false once the decoder says that it is broken.
template <typename Sink>
bool Feed(FrameDecoder& decoder, const std::vector<uint8_t>& stream, Sink&& sink) {
  for (size_t at = 0; at < stream.size();) {
    const size_t room = decoder.room_bytes();
    Must(room >= FrameDecoder::kReadBytes, "there is room for a read");
    const size_t left = std::min(room, stream.size() - at);
    const size_t piece = 1 + (Below(3) == 0 ? Below(std::min<size_t>(left, 9)) : Below(left));
    std::copy_n(stream.begin() + at, piece, decoder.room());
    at += piece;
    if (!decoder.Take(piece, sink)) return false;
  }
  return true;
}

void WholeStream() {
  std::vector<std::vector<uint8_t>> frames;
  std::vector<uint8_t> stream;
  for (size_t count = Below(40); count > 0; --count) {
    frames.push_back(Frame(AnyLength()));
    stream.insert(stream.end(), frames.back().begin(), frames.back().end());
  }
  const bool is_broken = Below(3) == 0;
  if (is_broken) {
    const auto bad = Frame(0);
    stream.insert(stream.end(), bad.begin(), bad.end());
    frames.push_back(bad);
    // 69633 is the first length that is none.
    for (const uint8_t byte : {0x00, 0x01, 0x10, 0x01}) stream.push_back(byte);
    for (size_t i = Below(300); i > 0; --i) stream.push_back(static_cast<uint8_t>(g_random()));
  }
  FrameDecoder decoder;
  size_t seen = 0;
  const bool is_whole = Feed(decoder, stream, [&](const uint8_t* frame, size_t bytes) {
    Must(seen < frames.size(), "no frame too many");
    Must(bytes == frames[seen].size() && std::equal(frame, frame + bytes, frames[seen].begin()),
         "frames come as they were");
    ++seen;
  });
  Must(seen == frames.size(), "all frames came");
  Must(is_whole != is_broken, "a broken stream is told");
  if (is_broken) Must(!decoder.Take(0, [](const uint8_t*, size_t) {}), "and stays broken");
  else Must(decoder.held() == 0, "nothing is left");
}

void AnyBytes() {
  std::vector<uint8_t> stream(Below(400'000));
  const bool is_mild = Below(2) == 0;
  for (size_t i = 0; i < stream.size(); ++i) {
    // Mostly small lengths, so that it goes on for a while.
    stream[i] = is_mild && i % 4 != 3 ? 0 : static_cast<uint8_t>(g_random());
  }
  FrameDecoder decoder;
  Feed(decoder, stream, [&](const uint8_t* frame, size_t bytes) {
    Must(bytes >= 4 && bytes <= romulus::kFrameBytesMax, "frames are within bounds");
    volatile uint8_t last = frame[bytes - 1];
    (void)last;
  });
}

void Queue() {
  const size_t bytes_max = 1 + Below(200'000);
  const size_t frames_max = 1 + Below(50);
  FrameQueue queue(bytes_max, frames_max);
  uint64_t pushed = 0;
  uint64_t counted = 0;
  uint64_t delivered = 0;
  for (size_t steps = Below(200); steps > 0; --steps) {
    if (Below(6) != 0) {
      const auto frame = Frame(Below(4000));
      queue.Push(static_cast<uint32_t>(pushed % 3), frame.data(), frame.size());
      ++pushed;
      Must(queue.bytes() <= bytes_max && queue.frames() <= frames_max, "the queue is bounded");
      continue;
    }
    uint32_t lost_after = 0;
    for (const auto& chunk : queue.TakeAll(&lost_after)) {
      size_t at = 0;
      for (const auto& note : chunk.notes) {
        counted += note.lost_before;
        Must(note.port == counted % 3, "every frame is counted in its place");
        ++counted;
        ++delivered;
        const size_t length = size_t{chunk.bytes[at]} << 24 | size_t{chunk.bytes[at + 1]} << 16 |
                              size_t{chunk.bytes[at + 2]} << 8 | chunk.bytes[at + 3];
        at += 4 + length;
      }
      Must(at == chunk.bytes.size(), "a chunk is whole frames");
    }
    counted += lost_after;
    Must(counted == pushed && queue.empty(), "all are counted");
  }
  Must(delivered + queue.dropped() + queue.frames() == pushed, "none is counted twice");
}

}  // namespace

int main(int argument_count, char** arguments) {
  if (argument_count != 3) return 2;
  g_random.seed(std::strtoull(arguments[1], nullptr, 10));
  const long rounds = std::strtol(arguments[2], nullptr, 10);
  for (long round = 0; round < rounds; ++round) {
    WholeStream();
    AnyBytes();
    Queue();
  }
  std::printf("%ld rounds\n", rounds);
  return 0;
}
