/**
 * Makes the test vectors of test/fixtures/protocol/vectors.json. `npx tsx test/codec/vectors.ts`
 * writes the file anew; a change in it is a change of the protocol.
 */
import { writeFileSync } from 'node:fs';
import { argv } from 'node:process';
import { encodeMessage, type Message } from '../../src/codec/messages.ts';
import { GENERATION, SAMPLE_LIST } from './samples.ts';

/** One frame in hexadecimal beside what it says. Bytes are hex strings, nanoseconds decimal ones. */
export interface ProtocolVector {
  readonly kind: string;
  readonly generation: number;
  readonly message: unknown;
  readonly frameHex: string;
}

/** The vector of a message. */
export function vectorOf(message: Message): ProtocolVector {
  const frame = Buffer.concat(encodeMessage(message, { generation: GENERATION }));
  return {
    kind: message.kind,
    generation: GENERATION,
    message: readable(message),
    frameHex: frame.toString('hex'),
  };
}

function readable(value: unknown): unknown {
  if (typeof value === 'bigint') return String(value);
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex');
  if (Array.isArray(value)) return value.map(readable);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, readable(item)]));
}

if (argv[1] === new URL(import.meta.url).pathname) {
  const file = new URL('../fixtures/protocol/vectors.json', import.meta.url);
  const vectors = SAMPLE_LIST.map((message) => vectorOf(message));
  writeFileSync(file, `${JSON.stringify({ protocolVersion: 1, vectors }, null, 2)}\n`);
}
