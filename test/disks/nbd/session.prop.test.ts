/** Goal: however the bytes are cut, a session understands every request; and nonsense costs nothing. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RomulusError } from '../../../src/base/errors.ts';
import { REQUEST_BYTES_MAX } from '../../../src/disks/nbd/protocol.ts';
import { type NbdAction, NbdSession } from '../../../src/disks/nbd/session.ts';
import { clientFlags, go, option, request, type RequestFields } from './nbd-client.ts';

const DISK_BYTES = 100_000;

function play(stream: Buffer, cuts: readonly number[] = []): NbdAction[] {
  const actions: NbdAction[] = [];
  const session = new NbdSession((name) =>
    name === 'disk0' ? { diskBytes: DISK_BYTES } : 'unknown',
  );
  let from = 0;
  const sorted = cuts.map((cut) => cut % (stream.byteLength + 1)).sort((a, b) => a - b);
  for (const to of [...sorted, stream.byteLength]) {
    session.push(stream.subarray(from, to), (action) => actions.push(action));
    from = to;
  }
  return actions;
}

const hello = Buffer.concat([clientFlags(), option(8), option(10, Buffer.alloc(9)), go('disk0')]);

function after(...requests: RequestFields[]): NbdAction[] {
  return play(Buffer.concat([hello, ...requests.map(request)])).slice(4);
}

function errorOf(action: NbdAction | undefined): number {
  return action?.kind === 'send' ? action.bytes.readUInt32BE(4) : -1;
}

describe('NbdSession', () => {
  it('grants NBD_OPT_GO alone and says no to the rest', () => {
    const actions = play(hello);
    const replies = actions.map((action) =>
      action.kind === 'send' ? action.bytes.readUInt32BE(12) : action.kind,
    );
    expect(replies).toEqual([0x80000001, 0x80000001, 'opened', 3]);
    expect(actions[3]).toMatchObject({ kind: 'send' });
    const names = ['nothing', '', '\u{1f4bd}'];
    for (const name of names) {
      const [reply] = play(Buffer.concat([clientFlags(), go(name)]));
      expect(reply?.kind === 'send' && reply.bytes.readUInt32BE(12)).toBe(0x80000006);
    }
    const [malformed] = play(Buffer.concat([clientFlags(), option(7, Buffer.alloc(5))]));
    expect(malformed?.kind === 'send' && malformed.bytes.readUInt32BE(12)).toBe(0x80000003);
    expect(play(Buffer.concat([clientFlags(), option(2)])).map(({ kind }) => kind)).toEqual([
      'send',
      'end',
    ]);
  });

  it('answers in order, a write after it was handed over', () => {
    const data = Buffer.from('block');
    const actions = after(
      { type: 1, offset: 7n, data, cookie: 5n, flags: 1 },
      { type: 6, offset: 9n, length: 90, flags: 2 },
      { type: 4, offset: 0n, length: DISK_BYTES },
      { type: 3 },
      { type: 2 },
      { type: 3 },
    );
    expect(actions.map(({ kind }) => kind)).toEqual([
      'write',
      'send',
      'zeros',
      'send',
      'zeros',
      'send',
      'send',
      'end',
    ]);
    expect(actions[0]).toEqual({ kind: 'write', offset: 7, data });
    expect(actions[2]).toEqual({ kind: 'zeros', offset: 9, byteCount: 90 });
    expect(actions.filter(({ kind }) => kind === 'send').map(errorOf)).toEqual([0, 0, 0, 0]);
  });

  it('refuses what it does not serve and goes on', () => {
    const actions = after(
      { type: 0, length: 512 },
      { type: 7, length: 512 },
      { type: 4, offset: BigInt(DISK_BYTES - 1), length: 2 },
      { type: 6, offset: 2n ** 64n - 1n, length: 1 },
      { type: 6, length: 10, flags: 16 },
      { type: 1 },
      { type: 3 },
    );
    expect(actions.map(errorOf)).toEqual([1, 22, 22, 22, 22, 22, 0]);
  });

  it.each([
    ['a write beyond the end', { type: 1, offset: BigInt(DISK_BYTES), length: 1 }],
    ['a write at a wild offset', { type: 1, offset: 2n ** 64n - 1n, length: 1 }],
    ['a write that is too long', { type: 1, length: REQUEST_BYTES_MAX + 1 }],
    ['a write with unknown flags', { type: 1, length: 1, flags: 0x8000 }],
  ])('ends at %s, before any of its data', (_what, fields) => {
    expect(() => after(fields)).toThrow(RomulusError);
  });

  it.each([
    ['other client flags', clientFlags(4)],
    ['no magic', Buffer.concat([clientFlags(), Buffer.alloc(16)])],
    ['a long option', Buffer.concat([clientFlags(), option(3, Buffer.alloc(5000))])],
    ['the old way', Buffer.concat([clientFlags(), option(1, Buffer.from('disk0'))])],
    ['options without end', Buffer.concat([clientFlags(), ...Array(33).fill(option(3))])],
    ['no request', Buffer.concat([hello, Buffer.alloc(28)])],
  ])('ends at %s', (_what, stream) => {
    expect(() => play(stream)).toThrow(expect.objectContaining({ code: 'ERR_PROTOCOL_NBD' }));
  });

  const requests = fc.array(
    fc.oneof(
      fc.record({
        type: fc.constant(1),
        cookie: fc.bigInt(0n, 2n ** 64n - 1n),
        offset: fc.bigInt(0n, BigInt(DISK_BYTES - 300)),
        data: fc.uint8Array({ minLength: 1, maxLength: 300 }),
      }),
      fc.record({
        type: fc.constantFrom(0, 3, 4, 5, 6, 9),
        cookie: fc.bigInt(0n, 2n ** 64n - 1n),
        offset: fc.bigInt(0n, 2n ** 64n - 1n),
        length: fc.nat(0xffffffff),
      }),
    ),
    { maxLength: 12 },
  );

  it('understands the same however the bytes are cut', () => {
    fc.assert(
      fc.property(requests, fc.array(fc.nat()), (list, cuts) => {
        const stream = Buffer.concat([hello, ...list.map(request)]);
        const actions = play(stream, cuts);
        expect(actions).toEqual(play(stream));
        const writes = actions.filter(({ kind }) => kind === 'write');
        const sent = list.filter(({ type }) => type === 1);
        expect(writes).toEqual(
          sent.map((fields) => ({
            kind: 'write',
            offset: Number(fields.offset),
            data: Buffer.from((fields as { data: Uint8Array }).data),
          })),
        );
        const cookies = actions
          .slice(4)
          .flatMap((action) => (action.kind === 'send' ? [action.bytes.readBigUInt64BE(8)] : []));
        expect(cookies).toEqual(list.map(({ cookie }) => cookie));
      }),
      { numRuns: 200 },
    );
  });

  it('survives any bytes, with nothing but its own error', () => {
    fc.assert(
      fc.property(
        requests,
        fc.uint8Array({ maxLength: 64 }),
        fc.nat(),
        fc.boolean(),
        (list, noise, position, isGreeted) => {
          const good = Buffer.concat([isGreeted ? hello : clientFlags(), ...list.map(request)]);
          const at = position % (good.byteLength + 1);
          good.set(noise.subarray(0, good.byteLength - at), at);
          try {
            for (const action of play(good)) {
              if (action.kind === 'write')
                expect(action.offset + action.data.byteLength).toBeLessThanOrEqual(DISK_BYTES);
              if (action.kind === 'zeros')
                expect(action.offset + action.byteCount).toBeLessThanOrEqual(DISK_BYTES);
            }
          } catch (error) {
            expect(error).toMatchObject({ code: 'ERR_PROTOCOL_NBD' });
          }
        },
      ),
      { numRuns: 500 },
    );
  });
});
