/**
 * Copying ahead of a pause on a real machine that writes all the time: the image kept from what every
 * epoch staged equals the machine's RAM at every stop, also when a pause did not come about.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MIB, PAGE_BYTES } from '../../src/base/units.ts';
import { Capture } from '../../src/native/capture.ts';
import { Memory } from '../../src/native/memory.ts';
import { Baseline, PageImage } from '../../src/native/page-store.ts';
import { Tracker } from '../../src/native/tracker.ts';
import { PokeMachine } from '../fixtures/poke-machine.ts';
import { infoOf, MachineKit } from '../guests/sim/machine-kit.ts';
import { requireUserfault } from '../support/require.ts';

const BYTES = 32 * MIB;
const EPOCHS = 20;
const EPOCH_MS = 10;
const hasUserfault = requireUserfault();

let kit: MachineKit;
beforeEach(async () => {
  kit = new MachineKit();
  await kit.open();
});
afterEach(() => kit.close());

test.runIf(hasUserfault).each([1, 2] as const)(
  'an image from pages copied ahead and in the pause follows the machine, %d thread(s)',
  async (threads) => {
    const machine = await kit.start({ workload: 'random', memoryBytes: BYTES });
    const control = await kit.control(machine.socketPath);
    const info = await infoOf(control);
    const own = <T extends { close(): void }>(resource: T): T => {
      kit.onClose(() => resource.close());
      return resource;
    };
    const sharedPath = `/proc/${info.pid}/fd/${info.ramFd}`;
    const ram = own(Memory.map({ path: sharedPath, bytes: BYTES, writable: false }));
    const image = own(Memory.create({ name: 'image', bytes: BYTES }));
    const pages = new PageImage({ memory: image, blockId: 0 });
    const tracker = own(
      new Tracker({
        pid: info.pid,
        ranges: [{ address: info.ramAddress, bytes: BYTES }],
        kind: 'uffd-wp',
      }),
    );
    const capture = own(new Capture({ tracker, block: 0, memory: ram, threads }));
    const baseline = own(new Baseline({ pages: BYTES / PAGE_BYTES }));
    const take = (staged: ReturnType<Capture['staged']>, epoch: number): void => {
      const { batches } = baseline.encode(staged, { blockId: 0, epoch, mode: 'delta' });
      for (const batch of batches) pages.apply(batch);
    };
    capture.capture({ full: true });
    take(capture.staged(), 0);
    let aheadPages = 0;
    for (let epoch = 1; epoch <= EPOCHS; epoch += 1) {
      await sleep(EPOCH_MS);
      aheadPages += capture.captureAhead().pages;
      if (epoch % 5 === 0) {
        // The pause was refused, time and again: what was copied waits for the next one.
        for (let round = 2; round <= 6; round += 1) {
          await sleep(EPOCH_MS);
          aheadPages += capture.captureAhead().pages;
        }
      }
      await control.command('stop');
      capture.capture();
      take(capture.staged(), epoch);
      expect(image.compare(ram), `epoch ${epoch}`).toBe(-1);
      await control.command('cont');
    }
    expect(aheadPages).toBeGreaterThan(0);
    // Nothing that was copied ahead is left when there was nothing for this pause.
    await control.command('stop');
    const { pages: left } = capture.capture();
    expect(capture.stagedIndexes()).toHaveLength(left);
    take(capture.staged(), EPOCHS + 1);
    expect(image.compare(ram)).toBe(-1);
  },
);

test.runIf(hasUserfault)(
  'pages of anonymous memory that are written again are copied over where they lie',
  async () => {
    const bytes = 16 * MIB;
    const machine = await PokeMachine.start({ kind: 'anonymous', bytes });
    kit.onClose(() => machine.stop());
    const tracker = new Tracker({
      pid: machine.pid,
      ranges: [{ address: machine.address, bytes }],
      kind: 'uffd-wp',
    });
    kit.onClose(() => tracker.close());
    const capture = new Capture({ tracker, block: 0, threads: 2 });
    kit.onClose(() => capture.close());
    const truth = Memory.create({ name: 'image', bytes });
    kit.onClose(() => truth.close());
    const image = new PageImage({ memory: truth, blockId: 0 });
    const baseline = new Baseline({ pages: bytes / PAGE_BYTES });
    kit.onClose(() => baseline.close());
    capture.capture({ full: true });
    const round = async (pages: readonly number[], ahead: boolean): Promise<number> => {
      await machine.poke(pages);
      return (ahead ? capture.captureAhead() : capture.capture()).pages;
    };
    expect(await round([5, 6, 7, 300, 301, 4000], true)).toBe(6);
    expect(await round([6, 7, 8, 299, 300, 301, 302], true)).toBe(7);
    // Neighbours in the machine are none in the staging area, and the reverse.
    expect(await round([4, 5, 6, 7, 8, 9, 4000], true)).toBe(7);
    expect(await round([8, 9, 299, 4095], false)).toBe(4);
    const { batches, pages } = baseline.encode(capture.staged(), { blockId: 0, epoch: 1 });
    for (const batch of batches) image.apply(batch);
    expect(pages).toBe(12);
    // Every command wrote its number into the first words of its pages.
    const written: [page: number, by: number][] = [];
    for (let page = 0; page < bytes / PAGE_BYTES; page += 1) {
      const words = new BigUint64Array(new Uint8Array(truth.read(page * PAGE_BYTES, 64)).buffer);
      const by = Number(words.reduce((last, word) => (word > last ? word : last)));
      if (by > 0) written.push([page, by]);
    }
    const expected = { 4: 3, 5: 3, 6: 3, 7: 3, 8: 4, 9: 4, 299: 4, 300: 2, 301: 2, 302: 2 };
    expect(Object.fromEntries(written)).toEqual({ ...expected, 4000: 3, 4095: 4 });
  },
);

describe.runIf(hasUserfault).each(['shared', 'anonymous'] as const)(
  'after rounds ahead of a process with %s memory',
  (kind) => {
    const bytes = 96 * MIB;
    const pageCount = bytes / PAGE_BYTES;

    test.each([
      { name: 'one capture', parts: [[0, pageCount]] },
      {
        name: 'captures of parts',
        parts: [
          [1000, 20_000],
          [0, 1000],
          [21_000, pageCount - 21_000],
        ],
      },
    ] as const)('$name by two threads is the whole truth', async ({ parts }) => {
      const machine = await PokeMachine.start({ kind, bytes });
      kit.onClose(() => machine.stop());
      const own = <T extends { close(): void }>(resource: T): T => {
        kit.onClose(() => resource.close());
        return resource;
      };
      const ranges = [{ address: machine.address, bytes }];
      const tracker = own(new Tracker({ pid: machine.pid, ranges, kind: 'uffd-wp' }));
      const memory =
        machine.sharedPath === null
          ? null
          : own(Memory.map({ path: machine.sharedPath, bytes, writable: false }));
      const capture = own(
        new Capture({ tracker, block: 0, threads: 2, ...(memory !== null && { memory }) }),
      );
      const baseline = own(new Baseline({ pages: pageCount }));
      const image = own(Memory.create({ name: 'image', bytes }));
      const pages = new PageImage({ memory: image, blockId: 0 });
      const take = (): void => {
        const { batches } = baseline.encode(capture.staged(), { blockId: 0, epoch: 1 });
        for (const batch of batches) pages.apply(batch);
      };
      await machine.command('random 9000 11');
      capture.capture({ full: true });
      take();
      for (const [round, count] of [6000, 3000, 0, 500].entries()) {
        await machine.command(`random ${count} ${100 + round}`);
        capture.captureAhead();
        // Nothing of it may be encoded before the machine stood.
        expect(capture.stagedIndexes()).toHaveLength(0);
        // Nor be lost.
        capture.trim();
      }
      await machine.command('random 5000 200');
      for (const [fromPage, count] of parts) {
        capture.capture({ fromPage, pageCount: count });
        take();
      }
      const truth = Buffer.alloc(bytes);
      const fd = openSync(`/proc/${machine.pid}/mem`, 'r');
      kit.onClose(() => closeSync(fd));
      readSync(fd, truth, 0, bytes, machine.address);
      expect(image.read(0, bytes).equals(truth)).toBe(true);
    });
  },
);

test.runIf(hasUserfault)(
  'pages ascend in every list, however fast the machine writes behind the scan',
  async () => {
    // So many scattered regions that the kernel has to empty its buffer several times in a scan.
    const bytes = 64 * MIB;
    const machine = await kit.start({ workload: 'random', memoryBytes: bytes, rate: 200_000 });
    const info = await infoOf(await kit.control(machine.socketPath));
    const tracker = new Tracker({
      pid: info.pid,
      ranges: [{ address: info.ramAddress, bytes }],
      kind: 'uffd-wp',
    });
    kit.onClose(() => tracker.close());
    const capture = new Capture({ tracker, block: 0, threads: 1 });
    kit.onClose(() => capture.close());
    await sleep(500);
    capture.capture({ full: true });
    let pages = 0;
    for (let round = 0; round < 60; round += 1) {
      await sleep(4);
      // Not a true image of a machine that runs, but a list that must be in order all the same.
      pages += capture.capture().pages;
      const indexes = capture.stagedIndexes();
      const wrong = indexes.findIndex((page, at) => at > 0 && page <= (indexes[at - 1] ?? 0));
      expect(wrong, `round ${round}`).toBe(-1);
    }
    expect(pages).toBeGreaterThan(0);
  },
);
