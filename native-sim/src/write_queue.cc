#include "write_queue.h"

#include <cassert>
#include <numeric>

namespace romulus {

WriteQueue::WriteQueue(const std::vector<uint64_t>& disks_bytes, Limits limits, uint64_t received)
    : limits_(limits), received_(received), taken_(received) {
  for (const uint64_t disk_bytes : disks_bytes) {
    const uint64_t blocks = (disk_bytes + limits.block_bytes - 1) / limits.block_bytes;
    written_.emplace_back((blocks + 7) / 8);
  }
}

bool WriteQueue::Push(uint32_t disk, std::vector<WritePiece>& pieces) {
  assert(disk < written_.size() && !pieces.empty());
  if (is_resting_) {
    for (const WritePiece& piece : pieces) Note(disk, piece);
    ++received_;
    taken_ = received_;
    return true;
  }
  const size_t weight =
      std::accumulate(pieces.begin(), pieces.end(), size_t{0},
                      [](size_t sum, const WritePiece& piece) { return sum + WeightOf(piece); });
  if (weight > limits_.waiting_bytes_max - waiting_bytes_) return false;
  for (WritePiece& piece : pieces) pieces_.push_back({disk, false, std::move(piece)});
  pieces_.back().is_last = true;
  waiting_bytes_ += weight;
  ++received_;
  return true;
}

std::vector<QueuedPiece> WriteQueue::TakeSome(uint64_t data_bytes) {
  std::vector<QueuedPiece> taken;
  uint64_t bytes = 0;
  while (!pieces_.empty() && (bytes < data_bytes || !taken.back().is_last)) {
    taken.push_back(Shift());
    const WritePiece& piece = taken.back().piece;
    bytes += piece.data == nullptr ? 0 : piece.bytes;
  }
  return taken;
}

std::vector<QueuedPiece> WriteQueue::TakeThrough(uint64_t count) {
  std::vector<QueuedPiece> taken;
  while (taken_ < count && !pieces_.empty()) taken.push_back(Shift());
  return taken;
}

std::deque<QueuedPiece> WriteQueue::Rest() {
  for (const QueuedPiece& queued : pieces_) Note(queued.disk, queued.piece);
  is_resting_ = true;
  return Drop();
}

std::vector<std::vector<uint8_t>> WriteQueue::Resume() {
  is_resting_ = false;
  std::vector<std::vector<uint8_t>> none;
  for (const auto& blocks : written_) none.emplace_back(blocks.size());
  return std::exchange(written_, std::move(none));
}

std::deque<QueuedPiece> WriteQueue::Drop() {
  waiting_bytes_ = 0;
  taken_ = received_;
  return std::exchange(pieces_, {});
}

void WriteQueue::Note(uint32_t disk, const WritePiece& piece) {
  const uint64_t last = (piece.offset + piece.bytes - 1) / limits_.block_bytes;
  for (uint64_t block = piece.offset / limits_.block_bytes; block <= last; ++block) {
    written_[disk][block / 8] |= static_cast<uint8_t>(1u << (block % 8));
  }
}

QueuedPiece WriteQueue::Shift() {
  QueuedPiece queued = std::move(pieces_.front());
  pieces_.pop_front();
  waiting_bytes_ -= WeightOf(queued.piece);
  if (queued.is_last) ++taken_;
  return queued;
}

}  // namespace romulus
