/**
 * Writes a cpio archive in the "newc" format, which the kernel unpacks as its first root file system
 * (Documentation/driver-api/early-userspace/buffer-format.rst): for each entry a header of 13
 * eight-digit hexadecimal numbers, the name with a zero, the data, both padded to four bytes.
 *
 * Everything belongs to root and has no date, so that the same inputs give the same bytes.
 */

/** One entry of the archive; `mode` as in stat, type bits included. */
export interface CpioEntry {
  readonly name: string;
  readonly mode: number;
  readonly data?: Uint8Array;
  /** Major and minor number, of a device node. */
  readonly device?: readonly [number, number];
}

export const MODE_FOLDER = 0o040755;
export const MODE_PROGRAM = 0o100755;
export const MODE_FILE = 0o100644;
export const MODE_CHARACTER_DEVICE = 0o020600;

const MAGIC = '070701';
const TRAILER = 'TRAILER!!!';
const ALIGNMENT = 4;

function padded(length: number): Buffer {
  return Buffer.alloc((ALIGNMENT - (length % ALIGNMENT)) % ALIGNMENT);
}

function encode(entry: CpioEntry, inode: number): Buffer[] {
  const data = entry.data ?? new Uint8Array(0);
  const [major, minor] = entry.device ?? [0, 0];
  const name = Buffer.from(`${entry.name}\0`, 'utf8');
  const fields = [inode, entry.mode, 0, 0, 1, 0, data.length, 0, 0, major, minor, name.length, 0];
  const head = Buffer.concat([
    Buffer.from(
      MAGIC + fields.map((field) => field.toString(16).toUpperCase().padStart(8, '0')).join(''),
      'latin1',
    ),
    name,
  ]);
  return [head, padded(head.length), Buffer.from(data), padded(data.length)];
}

/** The archive of the entries, in their order: a folder before what is in it. */
export function cpioArchive(entries: readonly CpioEntry[]): Buffer {
  const all = [...entries, { name: TRAILER, mode: 0 }];
  return Buffer.concat(all.flatMap((entry, index) => encode(entry, index + 1)));
}
