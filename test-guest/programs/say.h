// What every program of the test guest shares: whole lines on standard output, and a clock.
//
// A line leaves in one write: the terminal keeps one write together, so that lines of several
// programs never mix.
#pragma once

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SAY_BYTES_MAX 256
#define PAGE_BYTES 4096u
#define NS_PER_S 1000000000ll
#define NS_PER_MS 1000000ll

__attribute__((format(printf, 1, 2))) static inline void say(const char *format, ...) {
  char line[SAY_BYTES_MAX];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(line, sizeof line - 1, format, arguments);
  va_end(arguments);
  if (length < 0) abort();
  if ((size_t)length > sizeof line - 2) length = sizeof line - 2;
  line[length] = '\n';
  const char *rest = line;
  size_t left = (size_t)length + 1;
  while (left > 0) {
    ssize_t written = write(STDOUT_FILENO, rest, left);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) _exit(1);
    rest += written;
    left -= (size_t)written;
  }
}

static inline int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

// Sleeps until an instant; a signal ends the sleep early (returns 0 then).
static inline int sleep_until(int64_t instant_ns) {
  struct timespec until = {.tv_sec = instant_ns / NS_PER_S, .tv_nsec = instant_ns % NS_PER_S};
  return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == 0;
}

// Who is late by more than a second does not catch up.
static inline int64_t next_tick(int64_t tick_ns, int64_t period_ns) {
  int64_t next = tick_ns + period_ns;
  int64_t now = now_ns();
  return now - next > NS_PER_S ? now : next;
}

static inline unsigned long number_argument(int argc, char **argv, int index,
                                            unsigned long otherwise) {
  if (index >= argc || argv[index][0] == 0) return otherwise;
  char *end = NULL;
  errno = 0;
  unsigned long value = strtoul(argv[index], &end, 10);
  if (errno != 0 || *end != 0 || value == 0) {
    say("! %s: not a positive number: %s", argv[0], argv[index]);
    exit(2);
  }
  return value;
}
