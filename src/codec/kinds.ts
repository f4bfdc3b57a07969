/**
 * The kinds of frames and their numbers on the wire (docs/PROTOCOL.md). Numbers are never reused:
 * a kind that goes leaves a gap.
 */

export const KIND_NUMBERS = {
  hello: 0x01,
  welcome: 0x02,
  ready: 0x03,
  baseImage: 0x10,
  baseDisk: 0x11,
  baseEnd: 0x12,
  epochBegin: 0x20,
  pages: 0x21,
  disk: 0x22,
  deviceState: 0x23,
  outputMark: 0x24,
  epochEnd: 0x25,
  ack: 0x30,
  applied: 0x31,
  heartbeat: 0x40,
  heartbeatReply: 0x41,
  paired: 0x50,
  scrubRequest: 0x51,
  scrubReply: 0x52,
  machinePaused: 0x53,
  goodbye: 0x60,
  error: 0x61,
} as const;

/** What a frame is about; the discriminant of `Message` as well. */
export type FrameKind = keyof typeof KIND_NUMBERS;

const NAMES: ReadonlyMap<number, FrameKind> = new Map(
  Object.entries(KIND_NUMBERS).map(([name, number]) => [number, name as FrameKind]),
);

/** The kind with this number, or undefined when there is none. */
export function kindOfNumber(number: number): FrameKind | undefined {
  return NAMES.get(number);
}

/** Flag bit 0: the payload is a u32 uncompressed size followed by one LZ4 block. */
export const FLAG_LZ4 = 0x0001;

/** Every flag that this version knows. */
export const KNOWN_FLAGS = FLAG_LZ4;

/** Kinds whose payload may be compressed: the bulky ones. */
export const COMPRESSIBLE_KINDS: ReadonlySet<FrameKind> = new Set([
  'baseImage',
  'baseDisk',
  'pages',
  'disk',
  'deviceState',
] satisfies FrameKind[]);
