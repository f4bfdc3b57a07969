#include "nbd_requests.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace romulus {

namespace {

constexpr uint32_t kRequestMagic = 0x25609513;
constexpr uint32_t kReplyMagic = 0x67446698;

enum Command : uint16_t { kRead = 0, kWrite = 1, kDisconnect = 2, kFlush = 3, kTrim = 4, kZeros = 6 };
// Stable storage is decided at commits, so FUA asks for nothing; neither does NO_HOLE.
constexpr uint16_t kFlagFua = 1;
constexpr uint16_t kFlagNoHole = 2;

constexpr uint32_t kNoError = 0;
constexpr uint32_t kNotPermitted = 1;
constexpr uint32_t kInvalid = 22;

uint64_t BigEndian(const uint8_t* bytes, size_t count) {
  uint64_t value = 0;
  for (size_t i = 0; i < count; ++i) value = value << 8 | bytes[i];
  return value;
}

void PutBigEndian(uint8_t* bytes, size_t count, uint64_t value) {
  for (size_t i = count; i-- > 0; value >>= 8) bytes[i] = static_cast<uint8_t>(value);
}

}  // namespace

size_t NbdRequests::Room(std::array<iovec, 2>* parts) {
  size_t count = 0;
  // What lies behind the data of this write may come with it, but not what lies behind this piece.
  bool is_last = true;
  if (is_data_) {
    (*parts)[count++] = {PieceEnd(), PieceRoom()};
    is_last = pieces_.back().offset + pieces_.back().bytes == write_end_;
  }
  if (is_last) {
    (*parts)[count++] = {staged_.get() + staged_bytes_, kStagedBytesMax - staged_bytes_};
  }
  return count;
}

NbdRequests::State NbdRequests::Take(size_t bytes, NbdSink& sink) {
  if (state_ != State::kOpen) return state_;
  if (is_data_) {
    assert(staged_bytes_ == 0);
    const size_t direct = std::min<size_t>(bytes, PieceRoom());
    bytes -= direct;
    Filled(direct, sink);
  }
  staged_bytes_ += bytes;
  assert(staged_bytes_ <= kStagedBytesMax);
  size_t at = 0;
  while (state_ == State::kOpen && at < staged_bytes_) {
    const size_t left = staged_bytes_ - at;
    if (is_data_) {
      const size_t copied = std::min<size_t>(left, PieceRoom());
      std::memcpy(PieceEnd(), staged_.get() + at, copied);
      at += copied;
      Filled(copied, sink);
    } else if (left >= kNbdRequestBytes) {
      at += kNbdRequestBytes;
      TakeRequest(staged_.get() + at - kNbdRequestBytes, sink);
    } else {
      break;
    }
  }
  staged_bytes_ -= at;
  if (at > 0 && staged_bytes_ > 0) {
    std::memmove(staged_.get(), staged_.get() + at, staged_bytes_);
  }
  return state_;
}

void NbdRequests::BeginPiece(uint64_t offset) {
  const uint64_t bytes = std::min<uint64_t>(write_end_ - offset, kPieceBytesMax);
  pieces_.push_back({offset, bytes, memory_->Allocate(bytes)});
  piece_filled_ = 0;
}

void NbdRequests::Filled(size_t bytes, NbdSink& sink) {
  piece_filled_ += bytes;
  if (PieceRoom() > 0) return;
  const uint64_t end = pieces_.back().offset + pieces_.back().bytes;
  if (end < write_end_) {
    BeginPiece(end);
    return;
  }
  is_data_ = false;
  if (HandOver(sink)) Answer(cookie_, kNoError);
}

void NbdRequests::TakeRequest(const uint8_t* bytes, NbdSink& sink) {
  if (BigEndian(bytes, 4) != kRequestMagic) return Break("a request without its magic");
  const Request request = {static_cast<uint16_t>(BigEndian(bytes + 4, 2)),
                           static_cast<uint16_t>(BigEndian(bytes + 6, 2)),
                           BigEndian(bytes + 8, 8), BigEndian(bytes + 16, 8),
                           static_cast<uint32_t>(BigEndian(bytes + 24, 4))};
  // Neither side can overflow: not `offset + length`, which may.
  const bool is_inside =
      request.length <= disk_bytes_ && request.offset <= disk_bytes_ - request.length;
  switch (request.type) {
    case kWrite:
      BeginWrite(request, is_inside);
      break;
    case kTrim:
    case kZeros:
      TakeZeros(request, is_inside, sink);
      break;
    case kDisconnect:
      state_ = State::kEnded;
      break;
    case kFlush:
      Answer(request.cookie, kNoError);
      break;
    case kRead:
      Answer(request.cookie, kNotPermitted);
      break;
    default:
      Answer(request.cookie, kInvalid);
      break;
  }
}

void NbdRequests::BeginWrite(const Request& request, bool is_inside) {
  // Its data follows and cannot be skipped at any price: nonsense ends the connection.
  if (request.length > kNbdWriteBytesMax) {
    return Break("a write of " + std::to_string(request.length) + " bytes");
  }
  if (!is_inside) {
    return Break("a write of " + std::to_string(request.length) + " bytes at " +
                 std::to_string(request.offset));
  }
  if ((request.flags & ~kFlagFua) != 0) {
    return Break("write flags " + std::to_string(request.flags));
  }
  if (request.length == 0) return Answer(request.cookie, kInvalid);
  is_data_ = true;
  cookie_ = request.cookie;
  write_end_ = request.offset + request.length;
  BeginPiece(request.offset);
}

void NbdRequests::TakeZeros(const Request& request, bool is_inside, NbdSink& sink) {
  const bool is_known = (request.flags & ~(kFlagFua | kFlagNoHole)) == 0;
  if (!is_inside || !is_known || request.length == 0) return Answer(request.cookie, kInvalid);
  pieces_.push_back({request.offset, request.length, nullptr});
  if (HandOver(sink)) Answer(request.cookie, kNoError);
}

bool NbdRequests::HandOver(NbdSink& sink) {
  const bool is_kept = sink.Write(pieces_);
  pieces_.clear();
  if (!is_kept) state_ = State::kRefused;
  return is_kept;
}

void NbdRequests::Answer(uint64_t cookie, uint32_t error) {
  const size_t at = replies_.size();
  replies_.resize(at + kNbdReplyBytes);
  PutBigEndian(&replies_[at], 4, kReplyMagic);
  PutBigEndian(&replies_[at + 4], 4, error);
  PutBigEndian(&replies_[at + 8], 8, cookie);
}

void NbdRequests::Break(std::string what) {
  state_ = State::kBroken;
  breach_ = std::move(what);
}

}  // namespace romulus
