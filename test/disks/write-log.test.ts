/** Goal: every write leaves exactly once, in order, for the first copy or its epoch. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type LoggedWrite,
  PIECE_BYTES_MAX,
  WriteLog,
  writesReceived,
} from '../../src/disks/write-log.ts';

function write(offset: number, byteCount = 1): LoggedWrite {
  return { disk: 0, offset, byteCount, data: Buffer.alloc(byteCount, 1) };
}

describe('WriteLog', () => {
  it('cuts the writes into a first copy and epochs, none lost, none twice', () => {
    fc.assert(
      fc.property(
        fc.nat(20),
        fc.array(fc.record({ writes: fc.nat(5), late: fc.nat(5), taken: fc.boolean() }), {
          maxLength: 8,
        }),
        (baseCount, epochs) => {
          const log = new WriteLog();
          let next = 0;
          const push = (count: number): void => {
            for (let done = 0; done < count; done += 1) log.push(write(next++));
          };
          const seen: number[] = [];
          push(baseCount);
          log.endBase();
          for (const [epoch, { writes, late, taken }] of epochs.entries()) {
            push(writes);
            log.mark(epoch, writesReceived(log.counter));
            const marked = next;
            push(late);
            if (!taken) continue;
            seen.push(...log.take(epoch).map(({ offset }) => offset));
            expect(seen).toEqual(
              Array.from({ length: marked - baseCount }, (_, i) => i + baseCount),
            );
          }
          const base: number[] = [];
          for (let chunks = log.nextBase(); chunks.length > 0; chunks = log.nextBase())
            base.push(...chunks.map(({ offset }) => offset));
          expect(base).toEqual(Array.from({ length: baseCount }, (_, i) => i));
          log.mark(99, next);
          seen.push(...log.take(99).map(({ offset }) => offset));
          expect(seen.length).toBe(next - baseCount);
          expect(log.waitingBytes).toBe(0);
        },
      ),
    );
  });

  it('gives nothing for an epoch marked during the first copy', () => {
    const log = new WriteLog();
    log.push(write(0));
    log.mark(1, 1);
    log.push(write(1));
    log.endBase();
    expect(log.take(1)).toEqual([]);
    log.push(write(2));
    log.mark(2, 3);
    expect(log.take(2)).toMatchObject([{ offset: 2 }]);
  });

  it('lets long writes leave in pieces and finds zeros in the first copy', () => {
    const log = new WriteLog();
    const data = Buffer.alloc(2 * PIECE_BYTES_MAX + 5);
    data[PIECE_BYTES_MAX] = 1;
    log.push({ disk: 3, offset: 10, byteCount: data.byteLength, data });
    const chunks = log.nextBase();
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
