// pattern [MIB [PAGES-A-TICK]]: memory that describes itself, rewritten in place for ever.
//
// Every page is a function of its index and a generation; the writer goes through the pages in
// order, one generation after the other. So at every instant the pages below the cursor are of the
// newest generation, those above of the one before, whole, and any page that is torn, stale or of
// another place shows. Each tick (10 ms) some pages are written and four times as many are checked.
//
// Every eighth generation changes all words of a page, each of the others one word in eight: so whole
// pages travel to the backup, and small changes spread over a page.
//
// Says `p ok CHECKED generation G` every second, `p BAD ...` at the first wrong page (and ends).
// SIGUSR1: checks every page at once and writes the outcome to /run/pattern.result.
#include <signal.h>
#include <sys/mman.h>

#include "say.h"

#define TICK_NS (10 * NS_PER_MS)
#define CHECKS_A_WRITE 4
#define WORDS (PAGE_BYTES / sizeof(uint64_t))
#define CLASSES 8

static const char *const RESULT_PATH = "/run/pattern.result";
static const char *const RESULT_DRAFT_PATH = "/run/pattern.draft";

static uint64_t *memory;
static size_t page_count;
// Pages below `cursor` carry `generation`, the others `generation - 1`.
static size_t cursor;
static uint64_t generation = 1;
static volatile sig_atomic_t check_wanted;

static void on_check(int signal_number) {
  (void)signal_number;
  check_wanted = 1;
}

// The generation in which the words of a class (their index modulo 8) were last changed.
static uint64_t changed_in(uint64_t of_generation, size_t class) {
  const uint64_t phase = of_generation % CLASSES;
  return of_generation - phase + (class <= phase ? class : 0);
}

// What the words of one page are: for each class the first value, and what is added from one word of
// the page to the next.
struct page_words {
  uint64_t first[CLASSES];
  uint64_t step[CLASSES];
};

static struct page_words words_of(size_t page, uint64_t of_generation) {
  struct page_words made;
  for (size_t class = 0; class < CLASSES; class++) {
    const uint64_t changed = changed_in(of_generation, class);
    made.first[class] = changed << 32 | page;
    // Odd, so that no two words of a page are alike; of the generation, so that no half fits another.
    made.step[class] =
        ((changed * 0x9e3779b97f4a7c15u) ^ ((uint64_t)page * 0xc2b2ae3d27d4eb4fu)) | 1;
  }
  return made;
}

static void write_page(size_t page, uint64_t of_generation) {
  volatile uint64_t *words = memory + page * WORDS;
  const struct page_words made = words_of(page, of_generation);
  for (size_t index = 0; index < WORDS; index++)
    words[index] = made.first[index % CLASSES] + made.step[index % CLASSES] * index;
}

// The first wrong word, or WORDS when the page is whole.
static size_t wrong_word(size_t page) {
  const volatile uint64_t *words = memory + page * WORDS;
  const struct page_words made = words_of(page, page < cursor ? generation : generation - 1);
  for (size_t index = 0; index < WORDS; index++)
    if (words[index] != made.first[index % CLASSES] + made.step[index % CLASSES] * index)
      return index;
  return WORDS;
}

static void describe(char *text, size_t bytes, size_t page, size_t word) {
  const uint64_t found = memory[page * WORDS + word];
  const uint64_t expected = page < cursor ? generation : generation - 1;
  snprintf(text, bytes,
           "BAD page %zu of %zu word %zu holds %016" PRIx64 ", its generation is %" PRIu64
           " (page begins as generation %" PRIu64 " of page %" PRIu64 ", cursor %zu)",
           page, page_count, word, found, expected, memory[page * WORDS] >> 32,
           memory[page * WORDS] & UINT32_MAX, cursor);
}

static void report_all(void) {
  char text[SAY_BYTES_MAX];
  snprintf(text, sizeof text, "ok %zu pages generation %" PRIu64, page_count, generation);
  for (size_t page = 0; page < page_count; page++) {
    const size_t word = wrong_word(page);
    if (word == WORDS) continue;
    describe(text, sizeof text, page, word);
    break;
  }
  FILE *file = fopen(RESULT_DRAFT_PATH, "w");
  if (file == NULL || fprintf(file, "%s\n", text) < 0 || fclose(file) != 0) abort();
  if (rename(RESULT_DRAFT_PATH, RESULT_PATH) != 0) abort();
}

int main(int argc, char **argv) {
  // First of all: a signal that nobody handles would end the program.
  signal(SIGUSR1, on_check);
  const size_t mebibytes = number_argument(argc, argv, 1, 32);
  const size_t pages_a_tick = number_argument(argc, argv, 2, 100);
  page_count = mebibytes * 256;
  memory = mmap(NULL, page_count * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                -1, 0);
  if (memory == MAP_FAILED) {
    say("! pattern: no memory for %zu MiB", mebibytes);
    return 1;
  }
  for (size_t page = 0; page < page_count; page++) write_page(page, generation);
  cursor = page_count;
  uint64_t checked = 0;
  size_t check_at = 0;
  int64_t report_ns = now_ns() + NS_PER_S;
  for (int64_t tick_ns = now_ns();; tick_ns = next_tick(tick_ns, TICK_NS)) {
    sleep_until(tick_ns);
    for (size_t count = 0; count < pages_a_tick; count++) {
      if (cursor == page_count) {
        cursor = 0;
        generation += 1;
      }
      write_page(cursor, generation);
      cursor += 1;
    }
    for (size_t count = 0; count < pages_a_tick * CHECKS_A_WRITE; count++) {
      const size_t word = wrong_word(check_at);
      if (word != WORDS) {
        char text[SAY_BYTES_MAX - 16];
        describe(text, sizeof text, check_at, word);
        say("p %s", text);
        report_all();
        return 1;
      }
      check_at = (check_at + 1) % page_count;
      checked += 1;
    }
    if (check_wanted) {
      check_wanted = 0;
      report_all();
    }
    if (now_ns() < report_ns) continue;
    say("p ok %" PRIu64 " generation %" PRIu64, checked, generation);
    report_ns += NS_PER_S;
  }
}
