/**
 * An engine in a process of its own, for what its guardian does when it freezes or dies: attaches to
 * the machine at argv[2], does what argv[3] asks for, says `ready`, and stays.
 *
 * On its stdin, `hush` ends the beats and `release` the watch, after which the socket is closed;
 * `silence` asks when the first silence began that was longer than a guardian bears, milliseconds of the
 * monotonic clock or `null`; `leave` makes it take leave of the machine.
 */
import { once } from 'node:events';
import { connect } from 'node:net';
import { toRomulusError } from '../../../src/base/errors.ts';
import { nowMs } from '../../../src/engine/clock.ts';
import { attachQemu } from '../../../src/guests/qemu/attach.ts';
import { descriptorOf } from '../../../src/native/descriptors.ts';
import {
  BEAT_MS,
  BEAT_WORDS,
  GuardianLink,
  STALL_MS_MAX,
} from '../../../src/native/guardian-link.ts';

export interface EngineOrders {
  readonly runsAlone?: boolean;
  readonly filters?: number;
  /** Stays in the middle of a pause. */
  readonly pauses?: boolean;
  /** Takes one pause after the other, and says so of each hundredth that is whole. */
  readonly pausesOn?: boolean;
  /** Has stopped the machine, as far as the guardian knows, and goes on. */
  readonly hasStopped?: boolean;
  /** Is in a pause, as far as the guardian knows, and goes on. */
  readonly isInPause?: boolean;
  /** A unix socket whose connection the guardian watches. */
  readonly watched?: string;
}

/** Byte of the guardian's page (native-sim/src/guardian_page.h). */
const HELD_SINCE_AT = 16;

const orders = JSON.parse(process.argv[3] ?? '{}') as EngineOrders;
const guest = await attachQemu({
  qmpPath: process.argv[2] ?? '',
  diskMode: 'none',
  holdsOutput: false,
});
const link = new GuardianLink(guest.guardian);
link.setFilterCount(orders.filters ?? 0);
link.setRunsAlone(orders.runsAlone ?? false);

if (orders.watched !== undefined) {
  const socket = connect(orders.watched);
  await once(socket, 'connect');
  const release = link.watch(descriptorOf(socket), 'disk');
  let beatAtMs = nowMs();
  let silentFromMs: number | null = null;
  const noteSilence = (): void => {
    if (nowMs() - beatAtMs > STALL_MS_MAX) silentFromMs ??= beatAtMs;
  };
  const beats = setInterval(() => {
    noteSilence();
    beatAtMs = nowMs();
    const word = Buffer.alloc(8);
    word.writeBigInt64LE(BigInt(Math.floor(beatAtMs)));
    link.page.write(8 * BEAT_WORDS.disk, word);
  }, BEAT_MS);
  process.stdin.on('data', (said) => {
    if (String(said).includes('hush')) clearInterval(beats);
    if (String(said).includes('silence')) {
      noteSilence();
      process.stdout.write(JSON.stringify(silentFromMs));
    }
    if (!String(said).includes('release')) return;
    release();
    socket.destroy();
  });
}
process.stdin.resume();
if (orders.hasStopped === true) link.page.write(0, Uint8Array.of(1, 0, 0, 0));
if (orders.isInPause === true) {
  const heldSince = Buffer.alloc(8);
  heldSince.writeBigInt64LE(process.hrtime.bigint());
  link.page.write(HELD_SINCE_AT, heldSince);
}
process.stdin.on('data', (said) => {
  if (String(said).includes('leave')) void guest.detach().then(() => process.exit());
});

if (orders.pauses === true)
  await guest.pause(() => {
    process.stdout.write('ready\n');
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  });
else process.stdout.write('ready\n');

for (let whole = 0; orders.pausesOn === true; ) {
  try {
    await guest.pause(() => undefined);
    whole += 1;
    if (whole % 100 === 0) process.stdout.write('whole\n');
  } catch (error) {
    // It was frozen in a pause, which then was none.
    if (toRomulusError(error).code !== 'ERR_GUEST_RAN_ON') throw error;
  }
}
