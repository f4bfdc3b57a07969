import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { KIND_NUMBERS } from '../../src/codec/kinds.ts';
import { PAYLOAD_BYTES_MAX } from '../../src/codec/limits.ts';
import { MESSAGE_BYTES_MAX } from '../../src/links/ws-link.ts';

const DOC = readFileSync(new URL('../../docs/PROTOCOL.md', import.meta.url), 'utf8');

const WITHOUT_PAYLOAD: ReadonlySet<string> = new Set(['scrubRequest', 'machinePaused']);

function bytesOf(text: string): number {
  const [number = '', unit] = text.split(' ');
  return Number(number) * (unit === 'MiB' ? 1024 * 1024 : unit === 'KiB' ? 1024 : 1);
}

describe('docs/PROTOCOL.md', () => {
  it('lists every kind with its number and limit', () => {
    const rows = Array.from(
      DOC.matchAll(/^\| (\w+) \| 0x([0-9a-f]{2}) \|.*\| ([^|]+) \|$/gm),
      ([, kind, number, limit = '']) => [kind, Number.parseInt(number ?? '', 16), bytesOf(limit)],
    );
    const kinds = Object.entries(KIND_NUMBERS) as [keyof typeof KIND_NUMBERS, number][];
    // A kind without payload has the limit of small ones, but its messages are refused if they have any.
    expect(rows).toEqual(
      kinds.map(([kind, number]) => [
        kind,
        number,
        WITHOUT_PAYLOAD.has(kind) ? 0 : PAYLOAD_BYTES_MAX[kind],
      ]),
    );
  });

  it('states the bound of a WebSocket message', () => {
    expect(DOC).toContain(MESSAGE_BYTES_MAX.toLocaleString('en-US'));
  });
});
