// Memory for the data of writes. Most of a first copy comes in pieces of one size: what they lay in is
// used again, the last freed first, while it is still in the cache. For any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "lock.h"
#include "write_queue.h"

namespace romulus {

class PieceMemory {
 public:
  // Pieces that wait to be filled.
  static constexpr size_t kSparesMax = 16;

  // Not cleared.
  std::unique_ptr<uint8_t[]> Allocate(size_t bytes) {
    if (bytes == kPieceBytesMax) {
      const std::lock_guard guard(lock_);
      if (!spares_.empty()) {
        auto spare = std::move(spares_.back());
        spares_.pop_back();
        return spare;
      }
    }
    return std::make_unique_for_overwrite<uint8_t[]>(bytes);
  }

  // Takes back what a piece of that size lay in.
  void Free(WritePiece piece) {
    if (piece.data == nullptr || piece.bytes != kPieceBytesMax) return;
    const std::lock_guard guard(lock_);
    if (spares_.size() < kSparesMax) spares_.push_back(std::move(piece.data));
  }

 private:
  Lock lock_;
  std::vector<std::unique_ptr<uint8_t[]>> spares_;
};

}  // namespace romulus
