/**
 * How fast the processor core is that this process is bound to: the shortest of three goes at a fixed piece
 * of work in registers, every few milliseconds, as lines `AT_NS TOOK_NS`. Shortest, so that what runs on
 * the core in between is not in it; no memory, so that no cache is; several sums side by side, because a core
 * that lends its units to another hardware thread is slower at those and not at one sum alone.
 */
import { writeSync } from 'node:fs';

const EVERY_MS = 4;
const GOES = 3;
const STEPS = 6000;
const LINES_AT_ONCE = 25;
const STDOUT = 1;

/** @param {number} seed */
function work(seed) {
  let [a, b, c, d] = [seed, seed, seed, seed];
  let [e, f, g, h] = [seed, seed, seed, seed];
  for (let step = 0; step < STEPS; step += 1) {
    a = (a + 1) | 0;
    b = (b + 3) | 0;
    c ^= a;
    d = (d + 7) | 0;
    e = (e + 9) | 0;
    f ^= e;
    g = (g + 13) | 0;
    h = (h + 15) | 0;
  }
  return a ^ b ^ c ^ d ^ e ^ f ^ g ^ h;
}

const clock = new Int32Array(new SharedArrayBuffer(4));
let lines = '';
for (let sample = 1, sum = 0; ; sample += 1) {
  let shortest = 0n;
  for (let go = 0; go < GOES; go += 1) {
    const start = process.hrtime.bigint();
    sum = work(sum);
    const took = process.hrtime.bigint() - start;
    if (go === 0 || took < shortest) shortest = took;
  }
  lines += `${process.hrtime.bigint()} ${shortest}\n`;
  if (sample % LINES_AT_ONCE === 0) {
    writeSync(STDOUT, lines);
    lines = '';
  }
  Atomics.wait(clock, 0, 0, EVERY_MS);
}
