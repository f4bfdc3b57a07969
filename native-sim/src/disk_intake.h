// Receives the writes of a machine's disks: serves every connection of QEMU's mirrors, from the
// moment at which its export was opened (src/disks/nbd/server.ts does what comes before).
//
// A thread of its own does it, because the guest's every write, and `stop`, wait for its replies. It
// never waits for anything but the sockets. A write is in the queue, and counted where other threads
// can read it, before its reply goes out: who stops the machine reads the count then and there.
//
// When more waits to be taken than may, the writes can no longer be followed: all connections are shut
// down, so that the guest does not wait either.
//
// Plain C++. Threads: everything public belongs to the owner's. `wake` is called from the thread here
// when there is something to hear or to take, and must only tell.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "fd.h"
#include "lock.h"
#include "nbd_requests.h"
#include "piece_memory.h"
#include "write_queue.h"

namespace romulus {

// Connections at a time: more disks are not served (src/disks/nbd/watchdog.ts).
constexpr size_t kDiskConnectionsMax = 64;
// Bytes of replies a client may leave unread.
constexpr size_t kUnreadRepliesBytesMax = size_t{1} << 20;

// What other threads, of this process or another, read and the thread here writes; they must outlive
// it.
struct IntakeWords {
  // Writes received, those of earlier intakes included.
  int64_t* received;
  // Weight of what waits.
  int64_t* waiting_bytes;
  // Milliseconds of CLOCK_MONOTONIC at which the thread lived last; 0 when there is none.
  std::vector<int64_t*> beats;
};

struct DiskIntakeOptions {
  std::vector<uint64_t> disks_bytes;
  WriteQueue::Limits limits;
  IntakeWords words;
  std::function<void()> wake;
};

// A connection as its negotiation left it.
struct OpenedDisk {
  uint32_t disk = 0;
  Fd socket;
  // Said to the client before anything else.
  std::vector<uint8_t> words;
  // What it sent already.
  std::vector<uint8_t> early;
};

// A connection that ended, and why.
struct GoneDisk {
  uint32_t disk;
  std::string code;
  std::string text;
};

class DiskIntake {
 public:
  // Starts the thread.
  explicit DiskIntake(DiskIntakeOptions options);
  DiskIntake(const DiskIntake&) = delete;
  DiskIntake& operator=(const DiskIntake&) = delete;
  ~DiskIntake();

  size_t disks() const { return disks_bytes_.size(); }

  // Serves it from now on.
  void Adopt(OpenedDisk opened);

  // Wakes once as soon as more than this waits; at once when it does.
  void WakeAbove(uint64_t waiting_bytes);
  // Which connections ended since it was asked last. After it, `wake` tells of new ones.
  std::vector<GoneDisk> TakeGone();

  // See WriteQueue. What was taken is given back by `Free`.
  std::vector<QueuedPiece> TakeSome(uint64_t data_bytes);
  std::vector<QueuedPiece> TakeThrough(uint64_t count);
  void Rest();
  std::vector<std::vector<uint8_t>> Resume();
  void Free(std::vector<QueuedPiece> pieces);

  // Ends the connections and the thread, and forgets what waits; `wake` is not called after it.
  // Idempotent.
  void Close();

 private:
  struct Connection;

  void ThreadMain();
  void Beat(int64_t now_ms);
  // False when it is closed.
  bool AdoptNew(std::vector<std::unique_ptr<Connection>>* connections);
  void Begin(Connection& connection, const std::vector<uint8_t>& early);
  void Serve(Connection& connection);
  // What comes of received bytes. False when the connection ended by them.
  bool Understand(Connection& connection, size_t bytes);
  void Flush(Connection& connection);
  void End(Connection& connection, std::string code, std::string text);
  bool Keep(uint32_t disk, std::vector<WritePiece>& pieces);
  void Kick();
  // These expect `lock_`.
  void Wake();
  void TellCounts();

  const std::vector<uint64_t> disks_bytes_;
  const IntakeWords words_;
  const std::function<void()> wake_;
  Fd kick_;
  PieceMemory memory_;
  // Set by the thread alone.
  bool is_overrun_ = false;

  // Guards what follows; held for moments only.
  Lock lock_;
  WriteQueue queue_;
  std::vector<OpenedDisk> opened_;
  std::vector<GoneDisk> gone_;
  uint64_t wake_above_bytes_ = UINT64_MAX;
  bool is_woken_ = false;
  bool is_closed_ = false;

  std::thread thread_;
};

}  // namespace romulus
