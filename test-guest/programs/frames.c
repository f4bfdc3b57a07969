// frames [PER_SECOND [BYTES]]: sends numbered frames on eth0, from 1 without a gap, PER_SECOND of them
// (0: as many as go) of BYTES each, and counts those of the same kind that come in. Says
// `f SENT RECEIVED` each second.
//
// A frame: broadcast, the card's own address, type 0x88b5 (for experiments), u64 little-endian number,
// zeros. What the card does not take is sent again, so the numbers on the wire have no gap of ours.
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "say.h"

#define TYPE 0x88b5
#define HEADER_BYTES 14
#define FRAME_BYTES_MAX 9014

static void must(int holds, const char *what) {
  if (holds) return;
  say("! frames: %s: %s", what, strerror(errno));
  exit(1);
}

int main(int argc, char **argv) {
  const int is_flood = argc > 1 && strcmp(argv[1], "0") == 0;
  const unsigned long per_second = is_flood ? 0 : number_argument(argc, argv, 1, 100);
  unsigned long bytes = number_argument(argc, argv, 2, 60);
  if (bytes < 60) bytes = 60;
  if (bytes > FRAME_BYTES_MAX) bytes = FRAME_BYTES_MAX;
  const int card = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(TYPE));
  must(card >= 0, "no packet socket (af_packet?)");
  struct ifreq request = {.ifr_name = "eth0"};
  must(ioctl(card, SIOCGIFFLAGS, &request) == 0, "no eth0");
  request.ifr_flags |= IFF_UP;
  must(ioctl(card, SIOCSIFFLAGS, &request) == 0, "eth0 does not come up");
  must(ioctl(card, SIOCGIFHWADDR, &request) == 0, "eth0 has no address");
  unsigned char frame[FRAME_BYTES_MAX] = {0};
  memset(frame, 0xff, 6);
  memcpy(frame + 6, request.ifr_hwaddr.sa_data, 6);
  frame[12] = TYPE >> 8;
  frame[13] = TYPE & 0xff;
  must(ioctl(card, SIOCGIFINDEX, &request) == 0, "eth0 has no index");
  struct sockaddr_ll to = {
      .sll_family = AF_PACKET, .sll_protocol = htons(TYPE), .sll_ifindex = request.ifr_ifindex};
  must(bind(card, (struct sockaddr *)&to, sizeof to) == 0, "bind");
  uint64_t sent = 0, received = 0;
  int64_t tick = now_ns();
  int64_t told = tick;
  for (;;) {
    const uint64_t number = sent + 1;
    memcpy(frame + HEADER_BYTES, &number, sizeof number);
    if (sendto(card, frame, bytes, 0, (struct sockaddr *)&to, sizeof to) == (ssize_t)bytes)
      sent = number;
    unsigned char heard[FRAME_BYTES_MAX];
    while (recv(card, heard, sizeof heard, 0) > 0) received++;
    if (now_ns() - told >= NS_PER_S) {
      told += NS_PER_S;
      say("f %" PRIu64 " %" PRIu64, sent, received);
    }
    if (is_flood) continue;
    tick = next_tick(tick, NS_PER_S / (int64_t)per_second);
    sleep_until(tick);
  }
}
