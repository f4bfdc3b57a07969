// disk [WRITES-A-SECOND [MIB [DEVICE]]]: writes self-describing blocks to a disk and reads others back.
//
// Each block of 4096 bytes repeats its index and generation; what was written last is kept in memory.
// One write in 32 zeroes a block instead (BLKZEROOUT), one in 64 discards it (BLKDISCARD; its content
// is anything then). Says `k WRITES CHECKED` each second; `k BAD ...` when a block is not what it was.
// DEVICE is a name below /dev.
//
// SIGUSR1: checks every block at once and writes the outcome to /run/disk.result. A block of an older
// generation than memory knows is stale, one of a newer generation early, any other wrong one bad.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/ioctl.h>

#include "say.h"

#define ZEROED UINT32_MAX
#define BLOCK_WORDS (PAGE_BYTES / sizeof(uint64_t))

#define PATH_BYTES_MAX 64

static const char *const RESULT_PATH = "/run/disk.result";
static const char *const RESULT_DRAFT_PATH = "/run/disk.draft";

static uint64_t *block;
static uint32_t *generations;  // 0: anything
static uint64_t block_count;
static int file;
static volatile sig_atomic_t check_wanted;

static void on_check(int signal_number) {
  (void)signal_number;
  check_wanted = 1;
}

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

static void read_block(uint64_t index) {
  if (pread(file, block, PAGE_BYTES, (off_t)(index * PAGE_BYTES)) == PAGE_BYTES) return;
  say("k BAD read of block %" PRIu64 ": %s", index, strerror(errno));
  exit(1);
}

// The first wrong word of the block just read, or BLOCK_WORDS when it is as it should be.
static size_t wrong_word(uint64_t index) {
  if (generations[index] == 0) return BLOCK_WORDS;
  const uint64_t expected = content(index, generations[index]);
  for (size_t word = 0; word < BLOCK_WORDS; word += 1)
    if (block[word] != expected) return word;
  return BLOCK_WORDS;
}

enum wrong { STALE, EARLY, BAD, WRONG_KINDS };

static enum wrong kind_of_wrong(uint64_t index) {
  for (size_t word = 1; word < BLOCK_WORDS; word += 1)
    if (block[word] != block[0]) return BAD;
  if (block[0] == 0) return STALE;
  if (block[0] >> 32 != index) return BAD;
  return (block[0] & UINT32_MAX) > generations[index] ? EARLY : STALE;
}

static void report_all(uint64_t writes) {
  uint64_t counts[WRONG_KINDS] = {0};
  uint64_t wrong = 0;
  for (uint64_t index = 0; index < block_count; index += 1) {
    read_block(index);
    if (wrong_word(index) == BLOCK_WORDS) continue;
    counts[kind_of_wrong(index)] += 1;
    wrong += 1;
  }
  FILE *result = fopen(RESULT_DRAFT_PATH, "w");
  if (result == NULL) abort();
  const int length =
      wrong == 0 ? fprintf(result, "ok %" PRIu64 " blocks %" PRIu64 " writes\n", block_count, writes)
                 : fprintf(result, "BAD %" PRIu64 " bad %" PRIu64 " stale %" PRIu64 " early\n",
                           counts[BAD], counts[STALE], counts[EARLY]);
  if (length < 0 || fclose(result) != 0) abort();
  if (rename(RESULT_DRAFT_PATH, RESULT_PATH) != 0) abort();
}

static void check_block(uint64_t index, uint64_t writes) {
  read_block(index);
  const size_t word = wrong_word(index);
  if (word == BLOCK_WORDS) return;
  say("k BAD block %" PRIu64 " word %zu: %" PRIx64 " instead of %" PRIx64, index, word, block[word],
      content(index, generations[index]));
  report_all(writes);
  exit(1);
}

int main(int argc, char **argv) {
  // First of all: a signal that nobody handles would end the program.
  signal(SIGUSR1, on_check);
  const int64_t period_ns = NS_PER_S / (int64_t)number_argument(argc, argv, 1, 500);
  block_count = number_argument(argc, argv, 2, 16) * (1048576u / PAGE_BYTES);
  char device[PATH_BYTES_MAX];
  snprintf(device, sizeof device, "/dev/%s", argc > 3 ? argv[3] : "vda");
  file = open(device, O_RDWR | O_DIRECT);
  if (file < 0) {
    say("! disk: cannot open %s: %s", device, strerror(errno));
    return 1;
  }
  generations = calloc(block_count, sizeof *generations);
  if (generations == NULL || posix_memalign((void **)&block, PAGE_BYTES, PAGE_BYTES) != 0) {
    say("! disk: no memory");
    return 1;
  }
  uint64_t writes = 0, checked = 0;
  uint64_t said_ns = (uint64_t)now_ns();
  for (int64_t tick_ns = now_ns();; tick_ns = next_tick(tick_ns, period_ns)) {
    sleep_until(tick_ns);
    const uint64_t index = next_random() % block_count;
    writes += 1;
    const int is_discard = writes % 64 == 0 && clear_block(index, BLKDISCARD);
    const int is_cleared = is_discard || (writes % 32 == 0 && clear_block(index, BLKZEROOUT));
    if (!is_cleared) write_block(index, (uint32_t)writes);
    check_block(next_random() % block_count, writes);
    checked += 1;
    if (check_wanted) {
      check_wanted = 0;
      report_all(writes);
    }
    if ((uint64_t)now_ns() - said_ns < (uint64_t)NS_PER_S) continue;
    said_ns = (uint64_t)now_ns();
    say("k %" PRIu64 " %" PRIu64, writes, checked);
  }
}
