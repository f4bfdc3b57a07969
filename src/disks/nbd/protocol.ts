/**
 * The words of the NBD protocol that we use (doc/proto.md of the NetworkBlockDevice project): fixed
 * newstyle handshake and NBD_OPT_GO from both sides, and a client's reading. All numbers are big-endian.
 *
 *   greeting, 18 bytes:  u64 'NBDMAGIC', u64 'IHAVEOPT', u16 handshake flags
 *   option, 16 bytes:    u64 'IHAVEOPT', u32 option, u32 dataBytes, then the data
 *   its reply, 20 bytes: u64 magic, u32 option, u32 reply, u32 dataBytes, then the data
 *   request, 28 bytes:   u32 magic, u16 flags, u16 type, u64 cookie, u64 offset, u32 length
 *   its reply, 16 bytes: u32 magic, u32 error, u64 cookie, then the data
 *
 * Requests to us are native code's: native-sim/src/nbd_requests.h.
 */

const INIT_MAGIC = 0x4e42444d41474943n;
/** Begins every option, and ends the greeting's constant part. */
export const OPTION_MAGIC = 0x49484156454f5054n;
const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;

const REQUEST_MAGIC = 0x25609513;
const DATA_REPLY_MAGIC = 0x67446698;

export const GREETING_BYTES = 18;
export const CLIENT_FLAGS_BYTES = 4;
export const OPTION_HEADER_BYTES = 16;
export const OPTION_REPLY_BYTES = 20;
export const DATA_REPLY_BYTES = 16;
const REQUEST_BYTES = 28;
/** A client's commands. */
const COMMAND = { read: 0, flush: 3 } as const;

/** Flags of the handshake, the same in both directions. */
export const HANDSHAKE_FIXED_NEWSTYLE = 1;
export const HANDSHAKE_NO_ZEROES = 2;

export const OPTION = { exportName: 1, abort: 2, info: 6, go: 7 } as const;
export const OPTION_REPLY = {
  ack: 1,
  info: 3,
  unsupported: 0x80000001,
  policy: 0x80000002,
  invalid: 0x80000003,
  unknown: 0x80000006,
} as const;
const INFO_EXPORT = 0;
const INFO_BLOCK_SIZE = 3;

const TRANSMISSION_HAS_FLAGS = 1;
const TRANSMISSION_FUA = 8;
const TRANSMISSION_TRIM = 32;
const TRANSMISSION_WRITE_ZEROES = 64;
/**
 * What we say an export can do. Not that it can be flushed: what is on stable storage is decided at
 * commits, and QEMU would ask for it twice in every pause (vm_stop in softmmu/cpus.c) and wait.
 */
export const TRANSMISSION_FLAGS: number =
  TRANSMISSION_HAS_FLAGS | TRANSMISSION_FUA | TRANSMISSION_TRIM | TRANSMISSION_WRITE_ZEROES;

/** Longest write that the protocol lets a client send without asking: nbd_requests.h holds it to it. */
const WRITE_BYTES_MAX: number = 32 * 1024 * 1024;
/** Longest name of an export that is read. */
export const EXPORT_NAME_BYTES_MAX = 256;
/** Longest option that is read: a name and all the information requests anybody sends. */
export const OPTION_BYTES_MAX = 4096;

/** The server's first words. */
export function greeting(): Buffer {
  const bytes = Buffer.alloc(GREETING_BYTES);
  bytes.writeBigUInt64BE(INIT_MAGIC, 0);
  bytes.writeBigUInt64BE(OPTION_MAGIC, 8);
  bytes.writeUInt16BE(HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES, 16);
  return bytes;
}

/** One reply to an option. */
export function optionReply(option: number, reply: number, data?: Uint8Array): Buffer {
  const bytes = Buffer.alloc(OPTION_REPLY_BYTES + (data?.byteLength ?? 0));
  bytes.writeBigUInt64BE(OPTION_REPLY_MAGIC, 0);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(reply, 12);
  bytes.writeUInt32BE(data?.byteLength ?? 0, 16);
  if (data !== undefined) bytes.set(data, OPTION_REPLY_BYTES);
  return bytes;
}

/** Everything that answers a granted NBD_OPT_GO. */
export function goReplies(diskBytes: number): Buffer {
  const size = Buffer.alloc(12);
  size.writeUInt16BE(INFO_EXPORT, 0);
  size.writeBigUInt64BE(BigInt(diskBytes), 2);
  size.writeUInt16BE(TRANSMISSION_FLAGS, 10);
  // A smallest block of one byte: else QEMU reads before it writes the end of an odd-sized disk.
  const blocks = Buffer.alloc(14);
  blocks.writeUInt16BE(INFO_BLOCK_SIZE, 0);
  blocks.writeUInt32BE(1, 2);
  blocks.writeUInt32BE(4096, 6);
  blocks.writeUInt32BE(WRITE_BYTES_MAX, 10);
  return Buffer.concat([
    optionReply(OPTION.go, OPTION_REPLY.info, size),
    optionReply(OPTION.go, OPTION_REPLY.info, blocks),
    optionReply(OPTION.go, OPTION_REPLY.ack),
  ]);
}

/** The name in the data of NBD_OPT_GO; null when the data is not well made. */
export function readGoName(data: Buffer): string | null {
  if (data.byteLength < 6) return null;
  const nameBytes = data.readUInt32BE(0);
  if (nameBytes > EXPORT_NAME_BYTES_MAX || data.byteLength < 6 + nameBytes) return null;
  const requests = data.readUInt16BE(4 + nameBytes);
  if (data.byteLength !== 6 + nameBytes + 2 * requests) return null;
  return data.toString('utf8', 4, 4 + nameBytes);
}

/** Whether these are the first words of a server that negotiates as we do. */
export function isGreeting(bytes: Buffer): boolean {
  return (
    bytes.readBigUInt64BE(0) === INIT_MAGIC &&
    bytes.readBigUInt64BE(8) === OPTION_MAGIC &&
    (bytes.readUInt16BE(16) & HANDSHAKE_FIXED_NEWSTYLE) !== 0
  );
}

/** A client's first words: its flags, and the wish for an export. */
export function clientGreeting(exportName: string): Buffer {
  const name = Buffer.from(exportName);
  const bytes = Buffer.alloc(CLIENT_FLAGS_BYTES + OPTION_HEADER_BYTES + 4 + name.byteLength + 2);
  bytes.writeUInt32BE(HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES, 0);
  bytes.writeBigUInt64BE(OPTION_MAGIC, 4);
  bytes.writeUInt32BE(OPTION.go, 12);
  bytes.writeUInt32BE(name.byteLength + 6, 16);
  bytes.writeUInt32BE(name.byteLength, 20);
  bytes.set(name, 24);
  return bytes;
}

/** Head of a reply to an option; null when it is none. */
export function readOptionReply(
  head: Buffer,
): { readonly option: number; readonly kind: number; readonly dataBytes: number } | null {
  if (head.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC) return null;
  return {
    option: head.readUInt32BE(8),
    kind: head.readUInt32BE(12),
    dataBytes: head.readUInt32BE(16),
  };
}

/** How long the export is, from the data of an info reply; null when it tells something else. */
export function readExportBytes(data: Buffer): bigint | null {
  if (data.byteLength !== 12 || data.readUInt16BE(0) !== INFO_EXPORT) return null;
  return data.readBigUInt64BE(2);
}

/** A client's request to read. */
export function readRequest(cookie: bigint, offset: number, byteCount: number): Buffer {
  return request(COMMAND.read, { cookie, offset, byteCount });
}

/** A client's request to write everything that waits in a cache. */
export function flushRequest(cookie: bigint): Buffer {
  return request(COMMAND.flush, { cookie, offset: 0, byteCount: 0 });
}

function request(
  command: number,
  { cookie, offset, byteCount }: { cookie: bigint; offset: number; byteCount: number },
): Buffer {
  const bytes = Buffer.alloc(REQUEST_BYTES);
  bytes.writeUInt32BE(REQUEST_MAGIC, 0);
  bytes.writeUInt16BE(command, 6);
  bytes.writeBigUInt64BE(cookie, 8);
  bytes.writeBigUInt64BE(BigInt(offset), 16);
  bytes.writeUInt32BE(byteCount, 24);
  return bytes;
}

/** Head of the reply to a request; null when it is none. */
export function readDataReply(
  head: Buffer,
): { readonly errno: number; readonly cookie: bigint } | null {
  if (head.readUInt32BE(0) !== DATA_REPLY_MAGIC) return null;
  return { errno: head.readUInt32BE(4), cookie: head.readBigUInt64BE(8) };
}
