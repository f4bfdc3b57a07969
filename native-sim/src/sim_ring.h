// The ring of emits that the world has not acknowledged: part of the device state, so that a machine
// restored elsewhere can send them again. A byte lies where it was first written until it is
// overwritten, so that two states a few milliseconds apart differ in few bytes.
//
// Entries are [u32 length][frame], wrapping byte by byte; positions only grow and are taken modulo
// the capacity. The seqs held are contiguous: first_seq .. first_seq + count - 1.
// Threads: none; the machine's lock protects it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace romulus::sim {

constexpr size_t kRingBytes = 65'536;

// Saved byte for byte, followed by the ring's bytes.
struct RingState {
  uint64_t tail = 0;  // of the oldest entry
  uint64_t head = 0;  // where the next entry goes
  uint64_t first_seq = 1;
  uint64_t count = 0;
};
static_assert(sizeof(RingState) == 32);

class EmitRing {
 public:
  EmitRing() : bytes_(kRingBytes, 0) {}

  uint64_t used() const { return state_.head - state_.tail; }
  uint64_t count() const { return state_.count; }
  // Of the oldest entry, or of the next emit when there is none.
  uint64_t first_seq() const { return state_.first_seq; }
  bool above_three_quarters() const { return used() > kRingBytes / 4 * 3; }
  bool above_half() const { return used() > kRingBytes / 2; }
  // Something other than beacons is held.
  bool holds_data() const { return data_count_ > 0; }
  // Oldest entries lost for lack of room, since the machine's process began.
  uint64_t dropped() const { return dropped_; }

  // The oldest entries make room. `frame` is far shorter than the ring.
  void Push(const uint8_t* frame, size_t length);
  // Forgets everything up to `seq`.
  void Acknowledge(uint64_t seq);
  void ForEach(const std::function<void(const uint8_t*, size_t)>& visit) const;

  const RingState& state() const { return state_; }
  const std::vector<uint8_t>& bytes() const { return bytes_; }
  // False, and unchanged, unless these are the state and bytes of a sound ring whose last emit is
  // `last_seq`.
  bool Restore(const RingState& state, const uint8_t* bytes, uint64_t last_seq);

 private:
  void Copy(uint64_t position, uint8_t* target, size_t length) const;
  uint32_t LengthAt(uint64_t position) const;
  bool IsData(uint64_t position) const;
  void DropOldest();

  RingState state_;
  uint64_t data_count_ = 0;
  uint64_t dropped_ = 0;
  std::vector<uint8_t> bytes_;
};

}  // namespace romulus::sim
