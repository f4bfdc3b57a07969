#include "frame_queue.h"

#include <algorithm>
#include <utility>

namespace romulus {

namespace {

// A chunk grows to about this much; small enough that a held frame keeps little else in memory.
constexpr size_t kChunkBytes = size_t{256} << 10;

}  // namespace

void FrameQueue::Push(uint32_t port, const uint8_t* frame, size_t frame_bytes) {
  if (frames_ >= frames_max_ || bytes_ + frame_bytes > bytes_max_) {
    ++lost_;
    ++dropped_;
    return;
  }
  if (chunks_.empty() || chunks_.back().bytes.size() + frame_bytes > kChunkBytes) {
    chunks_.emplace_back();
  }
  FrameChunk& chunk = chunks_.back();
  chunk.bytes.insert(chunk.bytes.end(), frame, frame + frame_bytes);
  chunk.notes.push_back({port, std::exchange(lost_, 0)});
  bytes_ += frame_bytes;
  ++frames_;
}

std::deque<FrameChunk> FrameQueue::TakeAll(uint32_t* lost_after) {
  *lost_after = std::exchange(lost_, 0);
  bytes_ = 0;
  frames_ = 0;
  return std::exchange(chunks_, {});
}

}  // namespace romulus
