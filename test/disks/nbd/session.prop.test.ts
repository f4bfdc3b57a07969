/** Goal: however the bytes are cut, a session understands its client; and nonsense costs nothing. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type NbdAction, NbdSession } from '../../../src/disks/nbd/session.ts';
import { clientFlags, go, option } from './nbd-client.ts';

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

describe('NbdSession', () => {
  it('grants NBD_OPT_GO alone and says no to the rest', () => {
    const actions = play(hello);
    const replies = actions.map((action) =>
      action.kind === 'send' ? action.bytes.readUInt32BE(12) : action.kind,
    );
    expect(replies).toEqual([0x80000001, 0x80000001, 3, 'opened']);
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

  it.each([
    ['other client flags', clientFlags(4)],
    ['no magic', Buffer.concat([clientFlags(), Buffer.alloc(16)])],
    ['a long option', Buffer.concat([clientFlags(), option(3, Buffer.alloc(5000))])],
    ['the old way', Buffer.concat([clientFlags(), option(1, Buffer.from('disk0'))])],
    ['options without end', Buffer.concat([clientFlags(), ...Array(33).fill(option(3))])],
  ])('ends at %s', (_what, stream) => {
    expect(() => play(stream)).toThrow(expect.objectContaining({ code: 'ERR_PROTOCOL_NBD' }));
  });

  const options = fc.array(
    fc.record({ kind: fc.constantFrom(3, 5, 6, 8, 9), data: fc.uint8Array({ maxLength: 40 }) }),
    { maxLength: 20 },
  );
  const early = fc.uint8Array({ maxLength: 40 });

  function streamOf(
    list: readonly { readonly kind: number; readonly data: Uint8Array }[],
    behind: Uint8Array,
  ): Buffer {
    const words = list.map(({ kind, data }) => option(kind, Buffer.from(data)));
    return Buffer.concat([clientFlags(), ...words, go('disk0'), behind]);
  }

  it('understands the same however the bytes are cut', () => {
    fc.assert(
      fc.property(options, early, fc.array(fc.nat()), (list, behind, cuts) => {
        const stream = streamOf(list, behind);
        const whole = play(stream);
        expect(whole.at(-1)).toMatchObject({ kind: 'opened', early: Buffer.from(behind) });
        expect(whole).toHaveLength(list.length + 2);
        const cut = play(stream, cuts);
        expect(cut.slice(0, -1)).toEqual(whole.slice(0, -1));
        // What it was not given any more is its caller's.
        expect(cut.at(-1)?.kind).toBe('opened');
      }),
      { numRuns: 200 },
    );
  });

  it('survives any bytes, with nothing but its own error', () => {
    fc.assert(
      fc.property(
        options,
        fc.uint8Array({ maxLength: 64 }),
        fc.nat(),
        fc.array(fc.nat()),
        (list, noise, position, cuts) => {
          const stream = streamOf(list, Buffer.alloc(0));
          const at = position % (stream.byteLength + 1);
          stream.set(noise.subarray(0, stream.byteLength - at), at);
          try {
            play(stream, cuts);
          } catch (error) {
            expect(error).toMatchObject({ code: 'ERR_PROTOCOL_NBD' });
          }
        },
      ),
      { numRuns: 500 },
    );
  });
});
