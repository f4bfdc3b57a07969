/** Goal: every write leaves exactly once, in order, ahead of all epochs or with its own. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  bytesWaiting,
  type LoggedWrite,
  makeCounter,
  PIECE_BYTES_MAX,
  WriteLog,
  writesReceived,
} from '../../src/disks/write-log.ts';

function write(offset: number, byteCount = 1): LoggedWrite {
  return { disk: 0, offset, byteCount, data: Buffer.alloc(byteCount, 1) };
}

describe('WriteLog', () => {
  it('lets the writes leave ahead and with epochs, none lost, none twice', () => {
    fc.assert(
      fc.property(
        fc.nat(20),
        fc.nat(20),
        fc.array(fc.record({ writes: fc.nat(5), late: fc.nat(5) }), { maxLength: 8 }),
        (firstCount, aheadCount, epochs) => {
          const counter = makeCounter();
          const before = new WriteLog({ counter });
          before.push(write(0));
          const log = new WriteLog({ counter });
          const base = writesReceived(counter);
          let next = 0;
          const push = (count: number): void => {
            for (let done = 0; done < count; done += 1) log.push(write(next++));
          };
          const seen: number[] = [];
          push(firstCount);
          for (let done = 0; done < aheadCount; done += 1)
            seen.push(...log.nextPieces().map(({ offset }) => offset));
          for (const [epoch, { writes, late }] of epochs.entries()) {
            push(writes);
            const marked = writesReceived(counter);
            push(late);
            log.mark(epoch, marked);
            seen.push(...log.take(epoch).map(({ offset }) => offset));
            expect(seen.length).toBe(marked - base);
          }
          log.mark(99, log.received);
          seen.push(...log.take(99).map(({ offset }) => offset));
          expect(seen).toEqual(Array.from({ length: next }, (_, index) => index));
          expect(log.waitingBytes).toBe(0);
          expect(bytesWaiting(counter)).toBe(0);
        },
      ),
    );
  });

  it('counts on over what was dropped', () => {
    const log = new WriteLog();
    for (let offset = 0; offset < 3; offset += 1) log.push(write(offset));
    log.mark(1, 2);
    expect(log.drop().map(({ offset }) => offset)).toEqual([0, 1, 2]);
    log.count();
    log.drop();
    log.push(write(7));
    log.mark(2, 5);
    expect(log.take(2)).toMatchObject([{ offset: 7 }]);
  });

  it('lets long writes leave in pieces and finds zeros in what goes ahead', () => {
    const log = new WriteLog();
    const data = Buffer.alloc(2 * PIECE_BYTES_MAX + 5);
    data[PIECE_BYTES_MAX] = 1;
    log.push({ disk: 3, offset: 10, byteCount: data.byteLength, data });
    const chunks = log.nextPieces();
    expect(chunks.map((chunk) => [chunk.disk, chunk.offset, chunk.byteCount])).toEqual([
      [3, 10, PIECE_BYTES_MAX],
      [3, 10 + PIECE_BYTES_MAX, PIECE_BYTES_MAX],
      [3, 10 + 2 * PIECE_BYTES_MAX, 5],
    ]);
    expect(chunks.map((chunk) => chunk.data === null)).toEqual([true, false, true]);
  });

  it('refuses more than its bound, for ever', () => {
    const log = new WriteLog({ waitingBytesMax: 1000 });
    log.push(write(0, 800));
    for (let tries = 0; tries < 2; tries += 1)
      expect(() => log.push(write(0, 200))).toThrow(
        expect.objectContaining({ code: 'ERR_LIMIT_DISK_BACKLOG' }),
      );
    expect(log.received).toBe(1);
  });
});
