/**
 * Copying ahead of a pause on a real machine that writes all the time: the image kept from both
 * lists of every epoch equals the machine's RAM at every stop, also when a pause did not come about.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { MIB, PAGE_BYTES } from '../../src/base/units.ts';
import { Capture } from '../../src/native/capture.ts';
import { hostFacts } from '../../src/native/host.ts';
import { Memory } from '../../src/native/memory.ts';
import { Baseline, PageImage } from '../../src/native/page-store.ts';
import { Tracker } from '../../src/native/tracker.ts';
import { infoOf, MachineKit } from '../guests/sim/machine-kit.ts';

const BYTES = 32 * MIB;
const EPOCHS = 20;
const EPOCH_MS = 10;
const { userfaultfd, pagemapScan } = hostFacts();

let kit: MachineKit;
beforeEach(async () => {
  kit = new MachineKit();
  await kit.open();
});
afterEach(() => kit.close());

test.runIf(userfaultfd && pagemapScan).each([1, 2] as const)(
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
        // The pause was refused: what was copied waits for the next one, and there is room for one
        // more round only.
        await sleep(EPOCH_MS);
        aheadPages += capture.captureAhead().pages;
        await sleep(EPOCH_MS);
        expect(capture.captureAhead().pages).toBe(0);
      }
      await control.command('stop');
      capture.capture();
      for (const staged of capture.stagedAhead()) take(staged, epoch);
      take(capture.staged(), epoch);
      expect(image.compare(ram), `epoch ${epoch}`).toBe(-1);
      await control.command('cont');
    }
    expect(aheadPages).toBeGreaterThan(0);
    // Nothing of an old list is left when there was none for this pause.
    await control.command('stop');
    capture.capture();
    take(capture.staged(), EPOCHS + 1);
    expect(capture.stagedAhead()).toHaveLength(0);
    expect(image.compare(ram)).toBe(-1);
  },
);

test.runIf(userfaultfd && pagemapScan)(
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
