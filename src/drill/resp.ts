/**
 * Just enough RESP2 (https://redis.io/docs/latest/develop/reference/protocol-spec/) to be a client:
 * commands out, replies in. Replies are parsed incrementally; anything that is not RESP is refused.
 */
import { RomulusError } from '../base/errors.ts';

/** Longest reply that a client here expects. */
export const REPLY_BYTES_MAX = 1024 * 1024;

/** One reply; nested arrays are not asked for here and not read. */
export type Reply =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'error'; readonly text: string }
  | { readonly kind: 'integer'; readonly value: number }
  | { readonly kind: 'bulk'; readonly text: string | null };

/** A command as RESP sends it: an array of bulk strings. */
export function encodeCommand(words: readonly string[]): Buffer {
  const parts = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
  return Buffer.from(`*${words.length}\r\n${parts.join('')}`);
}

function bad(what: string, line: string): RomulusError {
  return new RomulusError('ERR_PROTOCOL_RESP', `RESP: ${what}: "${line.slice(0, 64)}"`, {
    remedy: 'Check that the machine runs the kv workload.',
  });
}

/** Collects bytes and gives back whole replies, in order. */
export class ReplyParser {
  #rest: Buffer = Buffer.alloc(0);

  /**
   * The replies that these bytes complete.
   * @throws {RomulusError} ERR_PROTOCOL_RESP when they are not RESP, or beyond REPLY_BYTES_MAX.
   */
  push(bytes: Buffer): Reply[] {
    this.#rest = this.#rest.byteLength === 0 ? bytes : Buffer.concat([this.#rest, bytes]);
    const replies: Reply[] = [];
    for (;;) {
      const lineEnd = this.#rest.indexOf('\r\n');
      if (lineEnd === -1) break;
      const line = this.#rest.toString('latin1', 0, lineEnd);
      const parsed = this.#parse(line, lineEnd + 2);
      if (parsed === null) break;
      replies.push(parsed.reply);
      this.#rest = this.#rest.subarray(parsed.usedBytes);
    }
    if (this.#rest.byteLength > REPLY_BYTES_MAX) throw bad('a reply without end', '');
    return replies;
  }

  #parse(line: string, afterLine: number): { reply: Reply; usedBytes: number } | null {
    const text = line.slice(1);
    switch (line[0]) {
      case '+':
        return { reply: { kind: 'text', text }, usedBytes: afterLine };
      case '-':
        return { reply: { kind: 'error', text }, usedBytes: afterLine };
      case ':': {
        if (!/^-?\d+$/.test(text)) throw bad('not an integer', line);
        return { reply: { kind: 'integer', value: Number(text) }, usedBytes: afterLine };
      }
      case '$': {
        if (!/^(?:-1|\d+)$/.test(text)) throw bad('not a length', line);
        const length = Number(text);
        if (length === -1) return { reply: { kind: 'bulk', text: null }, usedBytes: afterLine };
        if (length > REPLY_BYTES_MAX) throw bad('too long a string', line);
        if (this.#rest.byteLength < afterLine + length + 2) return null;
        const value = this.#rest.toString('latin1', afterLine, afterLine + length);
        return { reply: { kind: 'bulk', text: value }, usedBytes: afterLine + length + 2 };
      }
      default:
        throw bad('not a reply', line);
    }
  }
}
