// echo-server PORT: answers each number that a client sends (8 bytes, big-endian) with the number and how many
// it has answered on this connection before, 8 bytes each. A machine that lost or repeated something
// shows it: the two differ. One process for each connection, any number of them.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>

#include "../programs/say.h"

#define WORD_BYTES sizeof(uint64_t)
#define WAITING_MAX 16

static int read_word(int socket, unsigned char *word) {
  size_t got = 0;
  while (got < WORD_BYTES) {
    const ssize_t more = read(socket, word + got, WORD_BYTES - got);
    if (more < 0 && errno == EINTR) continue;
    if (more <= 0) return 0;
    got += (size_t)more;
  }
  return 1;
}

static int write_all(int socket, const unsigned char *bytes, size_t count) {
  while (count > 0) {
    const ssize_t written = write(socket, bytes, count);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return 0;
    bytes += written;
    count -= (size_t)written;
  }
  return 1;
}

static void serve(int socket) {
  const int on = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  unsigned char answer[2 * WORD_BYTES];
  for (uint64_t answered = 0; read_word(socket, answer); answered += 1) {
    for (size_t byte = 0; byte < WORD_BYTES; byte += 1)
      answer[WORD_BYTES + byte] = (unsigned char)(answered >> (8 * (WORD_BYTES - 1 - byte)));
    if (!write_all(socket, answer, sizeof answer)) return;
  }
}

int main(int argc, char **argv) {
  signal(SIGCHLD, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  const int on = 1;
  const struct sockaddr_in address = {
      .sin_family = AF_INET,
      .sin_port = htons((uint16_t)number_argument(argc, argv, 1, 7)),
      .sin_addr.s_addr = htonl(INADDR_ANY),
  };
  if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      bind(listener, (const struct sockaddr *)&address, sizeof address) != 0 ||
      listen(listener, WAITING_MAX) != 0) {
    say("! echo-server: cannot listen: %s", strerror(errno));
    return 1;
  }
  for (;;) {
    const int socket = accept(listener, NULL, NULL);
    if (socket < 0) continue;
    if (fork() == 0) {
      close(listener);
      serve(socket);
      return 0;
    }
    close(socket);
  }
}
