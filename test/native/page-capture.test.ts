/** From a written memory through tracker, capture, baseline and batches to an equal image. */
import { afterEach, expect, test } from 'vitest';
import { Prng } from '../../src/base/prng.ts';
import { MIB, PAGE_BYTES } from '../../src/base/units.ts';
import { Capture } from '../../src/native/capture.ts';
import { Memory } from '../../src/native/memory.ts';
import { Baseline, PageImage } from '../../src/native/page-store.ts';
import { Tracker } from '../../src/native/tracker.ts';

const BYTES = 32 * MIB;
const open: { close(): void }[] = [];
function keep<T extends { close(): void }>(item: T): T {
  open.push(item);
  return item;
}
afterEach(() => {
  for (const item of open.splice(0).toReversed()) item.close();
});

test('captured epochs make the image equal to the memory', () => {
  const memory = keep(Memory.create({ name: 'romulus-source', bytes: BYTES }));
  const copy = keep(Memory.create({ name: 'romulus-copy', bytes: BYTES }));
  const ranges = [{ address: memory.address, bytes: BYTES }];
  const tracker = keep(new Tracker({ pid: 0, ranges, kind: 'mprotect' }));
  const capture = keep(new Capture({ tracker, block: 0, memory, threads: 1 }));
  const baseline = keep(new Baseline({ pages: BYTES / PAGE_BYTES }));
  const image = new PageImage({ memory: copy, blockId: 0 });
  const prng = new Prng(1);
  for (let epoch = 1; epoch <= 12; epoch += 1) {
    for (let write = 0; write < 200; write += 1) {
      const bytes = Buffer.alloc(1 + prng.nextBelow(3000), prng.nextBelow(256));
      memory.write(prng.nextBelow(BYTES - bytes.length), bytes);
    }
    const { pages } = capture.capture({ full: epoch === 1 });
    const mode = epoch === 1 ? 'full' : 'delta';
    const encoded = baseline.encode(capture.staged(), { blockId: 0, epoch, mode });
    expect(encoded.pages + encoded.unchanged).toBe(pages);
    for (const batch of encoded.batches) image.apply(batch);
    expect(memory.compare(copy)).toBe(-1);
    expect(image.digest()).toBe(baseline.digest());
  }
});

test('after close the staged pages are none', () => {
  const memory = keep(Memory.create({ name: 'romulus-source', bytes: MIB }));
  const ranges = [{ address: memory.address, bytes: MIB }];
  const tracker = keep(new Tracker({ pid: 0, ranges, kind: 'mprotect' }));
  const capture = keep(new Capture({ tracker, block: 0, memory, threads: 1 }));
  const baseline = keep(new Baseline({ pages: MIB / PAGE_BYTES }));
  memory.write(5, Buffer.from('x'));
  capture.capture({ full: true });
  const staged = capture.staged();
  capture.close();
  expect(baseline.encode(staged, { blockId: 0, epoch: 1 })).toMatchObject({ pages: 0 });
});
