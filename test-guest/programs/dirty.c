// dirty [PAGES [PERIOD-MS [BYTES-A-PAGE]]]: dirties PAGES distinct pages in one burst, every PERIOD-MS.
//
// Bursts go through a region four times as large, so that two bursts in a row share no page.
// SIGHUP: reads `PAGES PERIOD-MS BYTES` anew from /run/dirty.conf. Says `d BURSTS PAGES` each second.
#include <signal.h>
#include <sys/mman.h>

#include "say.h"

#define PAGES_MAX 65536u
#define BURSTS_A_REGION 4
static const char *const CONFIGURATION_PATH = "/run/dirty.conf";

static volatile sig_atomic_t reload_wanted;
static unsigned long pages, period_ms, bytes_a_page;

static void on_reload(int signal_number) {
  (void)signal_number;
  reload_wanted = 1;
}

static void limit(void) {
  if (pages > PAGES_MAX) pages = PAGES_MAX;
  if (bytes_a_page > PAGE_BYTES) bytes_a_page = PAGE_BYTES;
}

static void reload(void) {
  FILE *file = fopen(CONFIGURATION_PATH, "r");
  unsigned long read_pages = 0, read_period_ms = 0, read_bytes = 0;
  const int fields =
      file == NULL ? 0 : fscanf(file, "%lu %lu %lu", &read_pages, &read_period_ms, &read_bytes);
  if (file != NULL) fclose(file);
  if (fields < 2 || read_period_ms == 0) {
    say("! dirty: %s says nothing useful", CONFIGURATION_PATH);
    return;
  }
  pages = read_pages;
  period_ms = read_period_ms;
  if (fields == 3 && read_bytes > 0) bytes_a_page = read_bytes;
  limit();
}

int main(int argc, char **argv) {
  // First of all: a signal that nobody handles would end the program.
  signal(SIGHUP, on_reload);
  pages = number_argument(argc, argv, 1, 1000);
  period_ms = number_argument(argc, argv, 2, 25);
  bytes_a_page = number_argument(argc, argv, 3, 8);
  limit();
  const size_t region_bytes = (size_t)PAGES_MAX * BURSTS_A_REGION * PAGE_BYTES;
  // Reserved, not touched: what a burst reaches is what counts.
  volatile unsigned char *region = mmap(NULL, region_bytes, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (region == MAP_FAILED) {
    say("! dirty: no memory");
    return 1;
  }
  // One page each: a huge page would make the first touch of a region another thing than the next.
  madvise((void *)region, region_bytes, MADV_NOHUGEPAGE);
  uint64_t bursts = 0;
  int64_t report_ns = now_ns() + NS_PER_S;
  for (int64_t tick_ns = now_ns();; tick_ns = next_tick(tick_ns, (int64_t)period_ms * NS_PER_MS)) {
    sleep_until(tick_ns);
    if (reload_wanted) {
      reload_wanted = 0;
      reload();
      tick_ns = now_ns();
    }
    const size_t first = (bursts % BURSTS_A_REGION) * pages;
    for (size_t page = 0; page < pages; page++) {
      volatile unsigned char *at = region + (first + page) * PAGE_BYTES;
      if (bytes_a_page == sizeof bursts) {
        *(volatile uint64_t *)at = bursts;
        continue;
      }
      const unsigned char value = (unsigned char)(bursts + 1);
      for (size_t byte = 0; byte < bytes_a_page; byte++)
        at[byte] = (unsigned char)(value + byte * 31);
    }
    bursts += 1;
    if (now_ns() < report_ns) continue;
    say("d %" PRIu64 " %lu", bursts, pages);
    report_ns += NS_PER_S;
  }
}
