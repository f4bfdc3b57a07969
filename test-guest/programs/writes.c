// writes [MIB [DEVICE]]: writes blocks of 4096 bytes to a disk past every cache, each when the one before is
// done. Says `o WRITES P50 P99` four times a second: all so far, and microseconds of a write since by the
// guest's own clock, which stands while the machine does. DEVICE is a name below /dev.
#define _GNU_SOURCE
#include <fcntl.h>

#include "say.h"

#define PATH_BYTES_MAX 64
#define PERIOD_NS (NS_PER_S / 4)
// In one period; beyond it the period ends early.
#define SAMPLES_MAX 16384
#define NS_PER_US 1000ll

static int64_t samples_ns[SAMPLES_MAX];

static int by_value(const void *left, const void *right) {
  const int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
  return (a > b) - (a < b);
}

static uint64_t random_state = 88172645463325252ull;
static uint64_t next_random(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

int main(int argc, char **argv) {
  const uint64_t block_count = number_argument(argc, argv, 1, 16) * (1048576u / PAGE_BYTES);
  char device[PATH_BYTES_MAX];
  snprintf(device, sizeof device, "/dev/%s", argc > 2 ? argv[2] : "vda");
  const int file = open(device, O_RDWR | O_DIRECT);
  if (file < 0) {
    say("! writes: cannot open %s: %s", device, strerror(errno));
    return 1;
  }
  uint64_t *block;
  if (posix_memalign((void **)&block, PAGE_BYTES, PAGE_BYTES) != 0) {
    say("! writes: no memory");
    return 1;
  }
  // Nothing that could be packed, and no block like another.
  for (size_t word = 0; word < PAGE_BYTES / sizeof *block; word += 1) block[word] = next_random();
  uint64_t writes = 0;
  size_t count = 0;
  int64_t said_ns = now_ns();
  for (int64_t begun_ns = said_ns;;) {
    block[0] = writes;
    const off_t offset = (off_t)(next_random() % block_count * PAGE_BYTES);
    if (pwrite(file, block, PAGE_BYTES, offset) != PAGE_BYTES) {
      say("o BAD write: %s", strerror(errno));
      return 1;
    }
    const int64_t done_ns = now_ns();
    samples_ns[count] = done_ns - begun_ns;
    begun_ns = done_ns;
    writes += 1;
    count += 1;
    if (done_ns - said_ns < PERIOD_NS && count < SAMPLES_MAX) continue;
    qsort(samples_ns, count, sizeof *samples_ns, by_value);
    say("o %" PRIu64 " %.1f %.1f", writes, (double)samples_ns[count / 2] / NS_PER_US,
        (double)samples_ns[count * 99 / 100] / NS_PER_US);
    count = 0;
    said_ns = begun_ns = now_ns();
  }
}
