/** Goal: storage that takes its time holds nobody up, and nothing gets before a piece that it must come after. */
import { beforeEach, describe, expect, it } from 'vitest';
import { RomulusError } from '../../src/base/errors.ts';
import { DiskReading, type PieceReaders } from '../../src/disks/disk-reading.ts';

const STRETCHES = [0, 4096, 8192].map((offset) => ({ disk: 0, offset, byteCount: 4096 }));

/** What was asked for, in order; it is answered when the test says so. */
let asked: { readonly offset: number; answer: (data: Buffer | null) => void }[];
let isClosed: boolean;
let reading: DiskReading;

beforeEach(() => {
  asked = [];
  isClosed = false;
  const failures: ((error: RomulusError) => void)[] = [];
  const readers: PieceReaders = {
    disks: [0],
    prepare: () => null,
    read: (_, offset) =>
      new Promise((resolve, reject) => {
        asked.push({ offset, answer: resolve });
        failures.push(reject);
      }),
    interrupt: () => {
      for (const fail of failures)
        fail(new RomulusError('ERR_DISK_READ', 'interrupted', { remedy: 'None.' }));
    },
    close: () => {
      isClosed = true;
      return Promise.resolve();
    },
  };
  reading = new DiskReading({ readers, stretches: STRETCHES.values(), epoch: 1, turnMs: 1 });
});

/** Answers what is asked for, in order, until all was. */
async function answerAll(content: number): Promise<void> {
  for (let at = 0; at < asked.length; at += 1) {
    asked[at]?.answer(Buffer.alloc(4096, content));
    await new Promise((resolve) => setImmediate(resolve));
  }
}

async function untilRead(): Promise<void> {
  await new Promise<void>((resolve) => reading.whenRead(resolve));
}

describe('the reading of disks', () => {
  it('waits for storage elsewhere, and then gives what was read, once', async () => {
    expect(await reading.next()).toBeNull();
    expect(await reading.next()).toBeNull();
    expect(asked).toHaveLength(1);
    expect(reading.isUnderWay).toBe(true);
    await answerAll(7);
    await untilRead();
    const given = await reading.next();
    expect(given?.map(({ offset }) => offset)).toEqual(asked.map(({ offset }) => offset));
    expect(given?.[0]?.data?.[0]).toBe(7);
    expect(reading.isUnderWay).toBe(false);
  });

  it('reads again what was overtaken', async () => {
    expect(await reading.next()).toBeNull();
    reading.overtake();
    expect(reading.isUnderWay).toBe(false);
    await answerAll(7);
    await untilRead();
    asked = [];
    expect(await reading.next()).toBeNull();
    expect(asked[0]?.offset).toBe(0);
    expect(reading.isUnderWay).toBe(true);
    const offsets: (number | undefined)[] = [];
    for (let given = await reading.next(); given?.length !== 0; given = await reading.next()) {
      for (const { offset, data } of given ?? []) {
        expect(data?.[0]).toBe(8);
        offsets.push(offset);
      }
      await answerAll(8);
    }
    expect(offsets).toEqual([0, 4096, 8192]);
  });

  it('is closed at once, whatever it waits for', async () => {
    expect(await reading.next()).toBeNull();
    const closing = reading.close();
    expect(isClosed).toBe(false);
    await closing;
    expect(isClosed).toBe(true);
    await expect(reading.next()).rejects.toMatchObject({ code: 'ERR_DISK_READ' });
  });
});
