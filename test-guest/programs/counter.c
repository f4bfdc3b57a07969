// counter [LINES-A-SECOND]: prints `c N`, N from 1, without gap for ever.
//
// The number is kept twice, in two pages, the second as its complement: a copy of the machine in
// which one of the two is of another instant says `c BAD` instead of going on.
#include "say.h"

static volatile uint64_t number __attribute__((aligned(PAGE_BYTES)));
static volatile uint64_t complement __attribute__((aligned(PAGE_BYTES))) = UINT64_MAX;

int main(int argc, char **argv) {
  const int64_t period_ns = NS_PER_S / (int64_t)number_argument(argc, argv, 1, 100);
  for (int64_t tick_ns = now_ns();; tick_ns = next_tick(tick_ns, period_ns)) {
    sleep_until(tick_ns);
    if (number != ~complement) {
      say("c BAD %" PRIu64 " beside %" PRIu64, number, ~complement);
      return 1;
    }
    number += 1;
    complement = ~number;
    say("c %" PRIu64, number);
  }
}
