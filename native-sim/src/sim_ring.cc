#include "sim_ring.h"

#include <algorithm>
#include <cstring>

#include "sim_program.h"

namespace romulus::sim {

namespace {
constexpr size_t kLengthBytes = 4;
}

void EmitRing::Copy(uint64_t position, uint8_t* target, size_t length) const {
  const size_t at = position % kRingBytes;
  const size_t first = std::min(length, kRingBytes - at);
  std::memcpy(target, bytes_.data() + at, first);
  std::memcpy(target + first, bytes_.data(), length - first);
}

uint32_t EmitRing::LengthAt(uint64_t position) const {
  uint32_t length = 0;
  Copy(position, reinterpret_cast<uint8_t*>(&length), kLengthBytes);
  return length;
}

bool EmitRing::IsData(uint64_t position) const {
  const auto op = static_cast<EmitOp>(bytes_[(position + kLengthBytes + 1) % kRingBytes]);
  return op != EmitOp::kBeacon;
}

void EmitRing::DropOldest() {
  if (IsData(state_.tail)) data_count_--;
  state_.tail += kLengthBytes + LengthAt(state_.tail);
  state_.first_seq++;
  state_.count--;
}

void EmitRing::Push(const uint8_t* frame, size_t length) {
  while (kRingBytes - used() < kLengthBytes + length) {
    DropOldest();
    dropped_++;
  }
  const auto put = [&](const uint8_t* source, size_t bytes) {
    const size_t at = state_.head % kRingBytes;
    const size_t first = std::min(bytes, kRingBytes - at);
    std::memcpy(bytes_.data() + at, source, first);
    std::memcpy(bytes_.data(), source + first, bytes - first);
    state_.head += bytes;
  };
  const uint32_t length32 = static_cast<uint32_t>(length);
  const uint64_t position = state_.head;
  put(reinterpret_cast<const uint8_t*>(&length32), kLengthBytes);
  put(frame, length);
  state_.count++;
  if (IsData(position)) data_count_++;
}

void EmitRing::Acknowledge(uint64_t seq) {
  while (state_.count > 0 && state_.first_seq <= seq) DropOldest();
}

void EmitRing::ForEach(const std::function<void(const uint8_t*, size_t)>& visit) const {
  std::vector<uint8_t> frame;
  for (uint64_t at = state_.tail; at < state_.head;) {
    frame.resize(LengthAt(at));
    Copy(at + kLengthBytes, frame.data(), frame.size());
    visit(frame.data(), frame.size());
    at += kLengthBytes + frame.size();
  }
}

bool EmitRing::Restore(const RingState& state, const uint8_t* bytes, uint64_t last_seq) {
  if (state.head < state.tail || state.head - state.tail > kRingBytes) return false;
  if (state.first_seq == 0 || state.first_seq + state.count != last_seq + 1) return false;
  EmitRing candidate;
  candidate.state_ = state;
  candidate.bytes_.assign(bytes, bytes + kRingBytes);
  uint64_t at = state.tail;
  uint64_t seq = state.first_seq;
  while (at < state.head) {
    if (state.head - at < kLengthBytes + kEmitHeaderBytes) return false;
    const uint32_t length = candidate.LengthAt(at);
    if (length < kEmitHeaderBytes || length > state.head - at - kLengthBytes) return false;
    uint64_t found = 0;
    candidate.Copy(at + kLengthBytes + 8, reinterpret_cast<uint8_t*>(&found), sizeof found);
    if (found != seq) return false;
    if (candidate.IsData(at)) candidate.data_count_++;
    seq++;
    at += kLengthBytes + length;
  }
  if (seq != state.first_seq + state.count) return false;
  candidate.dropped_ = dropped_;
  *this = std::move(candidate);
  return true;
}

}  // namespace romulus::sim
