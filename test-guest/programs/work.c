// work [KIB]: a fixed job for CPU and memory, over and over: the same numbers are sorted, packed and
// summed. Says `w ROUND MS SUM` after each: the round for a clock outside, the duration by the
// guest's own clock; the sum is always the same.
#include "say.h"

static uint32_t *numbers;
static unsigned char *packed;
static size_t count;

static int by_value(const void *left, const void *right) {
  const uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
  return (a > b) - (a < b);
}

static void fill(void) {
  uint32_t state = 2463534242u;
  for (size_t index = 0; index < count; index++) {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    numbers[index] = state;
  }
}

// Gaps between neighbours, in as few bytes as each takes.
static size_t pack(void) {
  size_t length = 0;
  uint32_t previous = 0;
  for (size_t index = 0; index < count; index++) {
    uint32_t gap = numbers[index] - previous;
    previous = numbers[index];
    for (; gap >= 0x80; gap >>= 7) packed[length++] = (unsigned char)(gap | 0x80);
    packed[length++] = (unsigned char)gap;
  }
  return length;
}

int main(int argc, char **argv) {
  const size_t kibibytes = number_argument(argc, argv, 1, 256);
  count = kibibytes * 1024 / sizeof *numbers;
  numbers = malloc(count * sizeof *numbers);
  packed = malloc(count * 5);
  if (numbers == NULL || packed == NULL) {
    say("! work: no memory");
    return 1;
  }
  uint32_t expected = 0;
  for (uint64_t round = 1;; round++) {
    const int64_t started_ns = now_ns();
    fill();
    qsort(numbers, count, sizeof *numbers, by_value);
    const size_t length = pack();
    uint32_t sum = 2166136261u;
    for (size_t index = 0; index < length; index++) sum = (sum ^ packed[index]) * 16777619u;
    if (round == 1) expected = sum;
    if (sum != expected) {
      say("w BAD round %" PRIu64 ": %08" PRIx32 " instead of %08" PRIx32, round, sum, expected);
      return 1;
    }
    say("w %" PRIu64 " %.3f %08" PRIx32, round, (double)(now_ns() - started_ns) / 1e6, sum);
  }
}
