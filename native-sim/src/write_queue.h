// Disk writes on their way from their receiver to JavaScript: in one order over all disks, bounded,
// counted. Not for several threads at once.
//
// While it rests nobody is to be given them: only which blocks were written is kept, one bit for each,
// so that resting takes the same memory however long it lasts and however much is written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

namespace romulus {

// Longest piece in which the data of a write is kept and leaves; QEMU's mirrors write as much at once.
constexpr size_t kPieceBytesMax = size_t{1} << 20;
// What a waiting piece weighs besides its data.
constexpr size_t kEntryBytes = 128;

// A part of a write, or all of it.
struct WritePiece {
  uint64_t offset = 0;
  uint64_t bytes = 0;
  // Null when all of it is zeros.
  std::unique_ptr<uint8_t[]> data;
};

struct QueuedPiece {
  uint32_t disk = 0;
  // The write's last piece.
  bool is_last = true;
  WritePiece piece;
};

class WriteQueue {
 public:
  struct Limits {
    // Weight of all that may wait.
    size_t waiting_bytes_max;
    // The grain in which writes are noted while it rests.
    uint64_t block_bytes;
  };

  // `received` writes were counted before.
  WriteQueue(const std::vector<uint64_t>& disks_bytes, Limits limits, uint64_t received);

  // Takes over one write, given in pieces that lie inside the disk. False when more would wait than
  // may: then nothing is taken, and it is for the caller to end it.
  bool Push(uint32_t disk, std::vector<WritePiece>& pieces);

  // The oldest writes, whole, until they have so many bytes of data or nothing waits.
  std::vector<QueuedPiece> TakeSome(uint64_t data_bytes);
  // All up to this count, of writes that were received; those taken already are passed over.
  std::vector<QueuedPiece> TakeThrough(uint64_t count);

  // Forgets what waits but where it was to go, and keeps no data from now on. Gives what it forgot,
  // to be freed where nobody waits for that.
  std::deque<QueuedPiece> Rest();
  // Keeps data again. Gives the blocks written since `Rest`, lowest bit first, for each disk.
  std::vector<std::vector<uint8_t>> Resume();
  // Forgets what waits, and gives it.
  std::deque<QueuedPiece> Drop();

  uint64_t received() const { return received_; }
  uint64_t taken() const { return taken_; }
  size_t waiting_bytes() const { return waiting_bytes_; }

 private:
  static size_t WeightOf(const WritePiece& piece) {
    return kEntryBytes + (piece.data == nullptr ? 0 : piece.bytes);
  }
  void Note(uint32_t disk, const WritePiece& piece);
  QueuedPiece Shift();

  Limits limits_;
  std::deque<QueuedPiece> pieces_;
  size_t waiting_bytes_ = 0;
  // Counts of writes: all, and those that left or were dropped.
  uint64_t received_;
  uint64_t taken_;
  bool is_resting_ = false;
  std::vector<std::vector<uint8_t>> written_;
};

}  // namespace romulus
