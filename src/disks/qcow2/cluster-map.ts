/**
 * Where the bytes of a disk are in its qcow2 file, while a QEMU writes to both.
 *
 * QEMU keeps its tables in memory and writes them when it is told to flush. Told so once, the file says
 * where every cluster is that the machine has not written to since; of any other it may say anything.
 * One table is kept, as it was read. Before an L2 table is given up, what leads to it is changed in the
 * file: where that says the same before and after the table was read, it led to that table.
 */
import { readError } from '../readable-disk.ts';
import {
  clusterPlace,
  type ClusterPlace,
  ENTRY_BYTES,
  HEADER_BYTES,
  parseHeader,
  type Qcow2Header,
  tablePlace,
} from './tables.ts';

/** How often a table is read again that moved meanwhile. */
const READS_MAX = 8;
/** Tables that are looked into to know whether a file is worth reading. */
const SAMPLES = 16;
/** Entries of each of them that are looked at; the largest tables have sixty times as many. */
const SAMPLE_ENTRIES = 4096;

/** Neighbouring bytes of a disk whose place in the file is one. */
export interface Run {
  readonly byteCount: number;
  readonly place: ClusterPlace;
}

/** What the tables are read from; `read` gives exactly so many bytes. */
export interface TableBytes {
  readonly path: string;
  read(offset: number, byteCount: number): Promise<Buffer>;
}

interface Table {
  readonly index: number;
  readonly header: Qcow2Header;
  /** Null: nothing that it would lead to is allocated; `unknown`: only QEMU can read it. */
  readonly entries: Buffer | null | 'unknown';
}

/** The clusters of one disk. */
export class ClusterMap {
  readonly #file: TableBytes;
  readonly #diskBytes: number;
  readonly clusterBytes: number;
  #table: Table | null = null;

  private constructor(file: TableBytes, { diskBytes, clusterBytes }: Qcow2Header) {
    this.#file = file;
    this.#diskBytes = diskBytes;
    this.clusterBytes = clusterBytes;
  }

  /** @throws {RomulusError} ERR_DISK_READ when the file is not one that can be read so. */
  static async open(file: TableBytes, diskBytes: number): Promise<ClusterMap> {
    return new ClusterMap(file, await readHeader(file, diskBytes));
  }

  /**
   * Whether most of what is allocated can be read from the file, as far as its tables say by now: some of them, from
   * all over the disk. QEMU may keep newer ones in memory.
   * @throws {RomulusError} ERR_DISK_READ.
   */
  async isMostlyPlain(): Promise<boolean> {
    const { snapshots } = await readHeader(this.#file, this.#diskBytes);
    if (snapshots > 0) return false;
    const tables = Math.ceil(this.#diskBytes / (this.clusterBytes * this.#tableEntries));
    const step = Math.ceil(tables / SAMPLES);
    const stride = Math.ceil(this.#tableEntries / SAMPLE_ENTRIES) * ENTRY_BYTES;
    let places = 0;
    let unknown = 0;
    for (let index = 0; index < tables; index += step) {
      const { header, entries } = await this.#readTable(
        index * this.clusterBytes * this.#tableEntries,
      );
      if (entries === 'unknown') unknown += Math.min(this.#tableEntries, SAMPLE_ENTRIES);
      if (entries === 'unknown' || entries === null) continue;
      for (let at = 0; at < entries.byteLength; at += stride) {
        const place = clusterPlace(entries.readBigUInt64BE(at), header);
        if (place === 'unknown') unknown += 1;
        else if (place !== 'zeros') places += 1;
      }
    }
    return unknown <= places;
  }

  get #tableEntries(): number {
    return this.clusterBytes / ENTRY_BYTES;
  }

  /**
   * Where a stretch of the disk is, in order.
   * @throws {RomulusError} ERR_DISK_READ.
   */
  async runs(offset: number, byteCount: number): Promise<Run[]> {
    const runs: Run[] = [];
    const end = offset + byteCount;
    for (let at = offset; at < end; ) {
      const { place, clusterEnd } = await this.#cluster(at);
      const next = Math.min(clusterEnd, end);
      append(runs, { byteCount: next - at, place });
      at = next;
    }
    return runs;
  }

  /** Where a byte is, and where on the disk its cluster ends. */
  async #cluster(offset: number): Promise<{ place: ClusterPlace; clusterEnd: number }> {
    const table = await this.#tableOf(offset);
    const { header, entries } = table;
    const { clusterBytes } = header;
    const inCluster = offset % clusterBytes;
    const clusterEnd = offset - inCluster + clusterBytes;
    if (entries === 'unknown') return { place: 'unknown', clusterEnd };
    if (entries === null) return { place: 'zeros', clusterEnd };
    const cluster = Math.floor(offset / clusterBytes) % (clusterBytes / ENTRY_BYTES);
    const place = clusterPlace(entries.readBigUInt64BE(cluster * ENTRY_BYTES), header);
    return { place: typeof place === 'number' ? place + inCluster : place, clusterEnd };
  }

  async #tableOf(offset: number): Promise<Table> {
    const known = this.#table;
    if (known !== null && indexOf(offset, known.header) === known.index) return known;
    const table = await this.#readTable(offset);
    this.#table = table;
    return table;
  }

  async #readTable(offset: number): Promise<Table> {
    let before = await this.#way(offset);
    for (let read = 0; read < READS_MAX; read += 1) {
      const { header, index, entry } = before;
      const place = entry === null ? 'unknown' : tablePlace(entry, header);
      const entries =
        typeof place === 'number' ? await this.#file.read(place, header.clusterBytes) : place;
      const after = await this.#way(offset);
      if (after.entry === entry && after.header.l1Offset === header.l1Offset)
        return { index, header, entries };
      before = after;
    }
    return { index: before.index, header: before.header, entries: 'unknown' };
  }

  /** What leads to the L2 table of a byte of the disk; an entry that the L1 table is too short for is null. */
  async #way(
    offset: number,
  ): Promise<{ header: Qcow2Header; index: number; entry: bigint | null }> {
    const header = await readHeader(this.#file, this.#diskBytes);
    const index = indexOf(offset, header);
    const entry = index < header.l1Entries ? await this.#l1Entry(index, header) : null;
    return { header, index, entry };
  }

  async #l1Entry(index: number, { l1Offset }: Qcow2Header): Promise<bigint> {
    const bytes = await this.#file.read(l1Offset + index * ENTRY_BYTES, ENTRY_BYTES);
    return bytes.readBigUInt64BE();
  }
}

async function readHeader(file: TableBytes, diskBytes: number): Promise<Qcow2Header> {
  const header = parseHeader(await file.read(0, HEADER_BYTES));
  if (typeof header === 'string') throw readError(file.path, header);
  if (header.diskBytes === diskBytes) return header;
  throw readError(file.path, `its disk has ${header.diskBytes} bytes, the machine's ${diskBytes}`);
}

/** Which L2 table a byte of the disk belongs to. */
function indexOf(offset: number, { clusterBytes }: Qcow2Header): number {
  return Math.floor(offset / (clusterBytes * (clusterBytes / ENTRY_BYTES)));
}

function append(runs: Run[], { byteCount, place }: Run): void {
  const last = runs.at(-1);
  const follows =
    typeof place === 'number'
      ? typeof last?.place === 'number' && last.place + last.byteCount === place
      : last?.place === place;
  if (last !== undefined && follows)
    runs[runs.length - 1] = { byteCount: last.byteCount + byteCount, place: last.place };
  else runs.push({ byteCount, place });
}
