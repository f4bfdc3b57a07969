// disk [WRITES-A-SECOND [MIB [DEVICE]]]: writes self-describing blocks to a disk and reads others back.
//
// Each block of 4096 bytes repeats its index and generation; what was written last is kept in memory.
// One write in 32 zeroes a block instead (BLKZEROOUT), one in 64 discards it (BLKDISCARD; its content
// is anything then). Says `k WRITES CHECKED` each second; `k BAD ...` when a block is not what it was.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#include "say.h"

#define ZEROED UINT32_MAX
#define BLOCK_WORDS (PAGE_BYTES / sizeof(uint64_t))

static uint64_t *block;
static uint32_t *generations;  // 0: anything
static int file;

static uint64_t random_state = 88172645463325252ull;
static uint64_t next_random(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

static uint64_t content(uint64_t index, uint32_t generation) {
  return generation == ZEROED ? 0 : index << 32 | generation;
}

static void write_block(uint64_t index, uint32_t generation) {
  for (size_t word = 0; word < BLOCK_WORDS; word += 1) block[word] = content(index, generation);
  if (pwrite(file, block, PAGE_BYTES, (off_t)(index * PAGE_BYTES)) != PAGE_BYTES) {
    say("k BAD write of block %" PRIu64 ": %s", index, strerror(errno));
    exit(1);
  }
  generations[index] = generation;
}

static int clear_block(uint64_t index, unsigned long request) {
  uint64_t range[2] = {index * PAGE_BYTES, PAGE_BYTES};
  if (ioctl(file, request, range) != 0) return 0;
  generations[index] = request == BLKZEROOUT ? ZEROED : 0;
  return 1;
}

static void check_block(uint64_t index) {
  if (generations[index] == 0) return;
  const uint64_t expected = content(index, generations[index]);
  if (pread(file, block, PAGE_BYTES, (off_t)(index * PAGE_BYTES)) != PAGE_BYTES) {
    say("k BAD read of block %" PRIu64 ": %s", index, strerror(errno));
    exit(1);
  }
  for (size_t word = 0; word < BLOCK_WORDS; word += 1) {
    if (block[word] == expected) continue;
    say("k BAD block %" PRIu64 " word %zu: %" PRIx64 " instead of %" PRIx64, index, word,
        block[word], expected);
    exit(1);
  }
}

int main(int argc, char **argv) {
  const int64_t period_ns = NS_PER_S / (int64_t)number_argument(argc, argv, 1, 500);
  const uint64_t blocks = number_argument(argc, argv, 2, 16) * (1048576u / PAGE_BYTES);
  const char *device = argc > 3 ? argv[3] : "/dev/vda";
  file = open(device, O_RDWR | O_DIRECT);
  if (file < 0) {
    say("! disk: cannot open %s: %s", device, strerror(errno));
    return 1;
  }
  generations = calloc(blocks, sizeof *generations);
  if (generations == NULL || posix_memalign((void **)&block, PAGE_BYTES, PAGE_BYTES) != 0) {
    say("! disk: no memory");
    return 1;
  }
  uint64_t writes = 0, checked = 0;
  uint64_t said_ns = (uint64_t)now_ns();
  for (int64_t tick_ns = now_ns();; tick_ns = next_tick(tick_ns, period_ns)) {
    sleep_until(tick_ns);
    const uint64_t index = next_random() % blocks;
    writes += 1;
    const int is_discard = writes % 64 == 0 && clear_block(index, BLKDISCARD);
    const int is_cleared = is_discard || (writes % 32 == 0 && clear_block(index, BLKZEROOUT));
    if (!is_cleared) write_block(index, (uint32_t)writes);
    check_block(next_random() % blocks);
    checked += 1;
    if ((uint64_t)now_ns() - said_ns < (uint64_t)NS_PER_S) continue;
    said_ns = (uint64_t)now_ns();
    say("k %" PRIu64 " %" PRIu64, writes, checked);
  }
}
