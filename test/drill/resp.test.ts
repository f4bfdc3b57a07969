import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { encodeCommand, type Reply, ReplyParser } from '../../src/drill/resp.ts';

describe('RESP', () => {
  it('writes commands as arrays of bulk strings, counted in bytes', () => {
    expect(encodeCommand(['SET', 'k', 'ü']).toString()).toBe(
      '*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nü\r\n',
    );
  });

  it('reads every kind of reply, cut anywhere', () => {
    const bytes = Buffer.from('+OK\r\n-ERR no\r\n:42\r\n$5\r\na\r\nbc\r\n$-1\r\n$0\r\n\r\n');
    const expected: Reply[] = [
      { kind: 'text', text: 'OK' },
      { kind: 'error', text: 'ERR no' },
      { kind: 'integer', value: 42 },
      { kind: 'bulk', text: 'a\r\nbc' },
      { kind: 'bulk', text: null },
      { kind: 'bulk', text: '' },
    ];
    fc.assert(
      fc.property(fc.integer({ min: 1, max: bytes.byteLength }), (step) => {
        const parser = new ReplyParser();
        const replies: Reply[] = [];
        for (let at = 0; at < bytes.byteLength; at += step)
          replies.push(...parser.push(bytes.subarray(at, at + step)));
        expect(replies).toEqual(expected);
      }),
    );
  });

  it.each(['?\r\n', ':x\r\n', '$-2\r\n', '$99999999999\r\n'])('refuses %j', (text) => {
    expect(() => new ReplyParser().push(Buffer.from(text))).toThrow(/RESP/);
  });
});
