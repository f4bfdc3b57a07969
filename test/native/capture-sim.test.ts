/**
 * The whole of capturing on a real machine under load: an image kept by captures alone equals the
 * machine's RAM at every stop, and the kernel's tracking and the machine's own agree page by page.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MIB, PAGE_BYTES } from '../../src/base/units.ts';
import type { SimWorkload } from '../../src/guests/sim/info.ts';
import { Capture } from '../../src/native/capture.ts';
import { Memory } from '../../src/native/memory.ts';
import { Tracker, type TrackerKind } from '../../src/native/tracker.ts';
import { infoOf, MachineKit, pathsOf } from '../guests/sim/machine-kit.ts';
import { requireUserfault } from '../support/require.ts';

const BYTES = 32 * MIB;
const EPOCHS = 12;
const EPOCH_MS = 15;
const kinds: TrackerKind[] = requireUserfault() ? ['uffd-wp', 'mprotect'] : ['mprotect'];

let kit: MachineKit;
beforeEach(async () => {
  kit = new MachineKit();
  await kit.open();
});
afterEach(() => kit.close());

describe.each(['random', 'hotspot', 'stream', 'counter'] as const)('workload %s', (workload) => {
  test(`images kept by ${kinds.join(' and ')} follow the machine exactly`, async () => {
    const { control, ram, followers } = await follow(workload);
    for (const { capture, image } of followers) baseImage(capture, image);
    for (let epoch = 0; epoch < EPOCHS; epoch += 1) {
      await sleep(EPOCH_MS);
      await control.command('stop');
      const dirty = followers.map(({ capture, image }) => {
        capture.capture();
        apply(capture, image);
        expect(image.compare(ram), `${workload}, epoch ${epoch}`).toBe(-1);
        return Array.from(capture.stagedIndexes());
      });
      // The first capture also holds what each saw dirtied since its own start; later ones agree.
      if (epoch > 0) for (const pages of dirty) expect(pages).toEqual(dirty[0]);
      await control.command('cont');
    }
  });
});

interface Follower {
  readonly capture: Capture;
  readonly image: Memory;
}

/** A running machine and, for each kind of tracking, a capture and the image it keeps. */
async function follow(workload: SimWorkload) {
  const machine = await kit.start({ workload, memoryBytes: BYTES, tracker: 'mprotect' });
  const control = await kit.control(machine.socketPath);
  const info = await infoOf(control);
  const own = <T extends { close(): void }>(resource: T): T => {
    kit.onClose(() => resource.close());
    return resource;
  };
  const ram = own(Memory.map({ path: pathsOf(info).ram, bytes: BYTES, writable: false }));
  const followers: Follower[] = kinds.map((kind) => {
    const tracker = own(
      new Tracker({
        pid: info.pid,
        ranges: [{ address: info.ramAddress, bytes: BYTES }],
        kind,
        mprotectSocket: `${machine.socketPath}.tracker`,
      }),
    );
    const capture = own(new Capture({ tracker, block: 0, memory: ram, threads: 2 }));
    return { capture, image: own(Memory.create({ name: 'image', bytes: BYTES })) };
  });
  return { control, ram, followers };
}

/** Taken while the machine runs, in parts. */
function baseImage(capture: Capture, image: Memory): void {
  const partPages = 2048;
  for (let fromPage = 0; fromPage < capture.pageCount; fromPage += partPages) {
    capture.capture({ full: true, fromPage, pageCount: partPages });
    apply(capture, image);
  }
}

function apply(capture: Capture, image: Memory): void {
  capture.stagedIndexes().forEach((page, i) => {
    image.write(page * PAGE_BYTES, capture.stagedPage(i));
  });
}
