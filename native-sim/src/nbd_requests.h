// One NBD connection after its negotiation, server side, without the socket: bytes in, writes and
// replies out (doc/proto.md of the NetworkBlockDevice project; simple replies; all numbers big-endian).
//
//     request, 28 bytes:  u32 magic, u16 flags, u16 type, u64 cookie, u64 offset, u32 length
//     reply, 16 bytes:    u32 magic, u32 error, u64 cookie
//
// Everything is hostile until checked; a length is believed only after it was held against its bound
// and the disk's size, and memory is taken only then, piece by piece. A breach of the protocol is
// final; a well-made request that we do not serve is answered with an error. Reads are refused: a
// mirror's target is never read. A write is handed over before its reply exists.
//
// The data of a long write is received where it stays: only what comes together with a header passes
// through a buffer here. One thread at a time.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "piece_memory.h"
#include "write_queue.h"

namespace romulus {

// Longest write that the protocol lets a client send without asking; src/disks/nbd/protocol.ts
// announces it.
constexpr uint32_t kNbdWriteBytesMax = uint32_t{32} << 20;
constexpr size_t kNbdRequestBytes = 28;
constexpr size_t kNbdReplyBytes = 16;

// Where writes go, whole and inside the disk. False ends the connection.
class NbdSink {
 public:
  virtual ~NbdSink() = default;
  // The pieces are the sink's to take.
  virtual bool Write(std::vector<WritePiece>& pieces) = 0;
};

class NbdRequests {
 public:
  enum class State {
    kOpen,
    // The client took leave: nothing after it is read.
    kEnded,
    // It broke the protocol; `breach` says how.
    kBroken,
    // The sink refused a write.
    kRefused,
  };
  // Read ahead of what is understood, at most.
  static constexpr size_t kStagedBytesMax = size_t{64} << 10;

  NbdRequests(uint64_t disk_bytes, PieceMemory* memory)
      : disk_bytes_(disk_bytes), memory_(memory), staged_(new uint8_t[kStagedBytesMax]) {}

  // Where the next bytes of the stream are to be put, in this order; gives how many parts there are.
  size_t Room(std::array<iovec, 2>* parts);
  // So many of them were put there.
  State Take(size_t bytes, NbdSink& sink);

  // Bytes of a request that is not whole yet were received.
  bool is_within() const { return is_data_ || staged_bytes_ > 0; }
  // Replies to be sent; whoever sends them takes them out.
  std::vector<uint8_t>& replies() { return replies_; }
  const std::string& breach() const { return breach_; }

 private:
  struct Request {
    uint16_t flags;
    uint16_t type;
    uint64_t cookie;
    uint64_t offset;
    uint32_t length;
  };

  // How much of the data of the write under way has been received, and of its last piece.
  uint64_t PieceRoom() const { return pieces_.back().bytes - piece_filled_; }
  uint8_t* PieceEnd() const { return pieces_.back().data.get() + piece_filled_; }
  void BeginPiece(uint64_t offset);
  void Filled(size_t bytes, NbdSink& sink);
  void TakeRequest(const uint8_t* bytes, NbdSink& sink);
  void BeginWrite(const Request& request, bool is_inside);
  void TakeZeros(const Request& request, bool is_inside, NbdSink& sink);
  bool HandOver(NbdSink& sink);
  void Answer(uint64_t cookie, uint32_t error);
  void Break(std::string what);

  uint64_t disk_bytes_;
  PieceMemory* memory_;
  State state_ = State::kOpen;
  std::string breach_;
  std::vector<uint8_t> replies_;

  std::unique_ptr<uint8_t[]> staged_;
  size_t staged_bytes_ = 0;

  // The write under way: its pieces so far, the last of them being filled.
  bool is_data_ = false;
  uint64_t cookie_ = 0;
  uint64_t write_end_ = 0;
  std::vector<WritePiece> pieces_;
  size_t piece_filled_ = 0;
};

}  // namespace romulus
