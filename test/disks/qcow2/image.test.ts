/**
 * Goal: what is read of a qcow2 file is what QEMU reads there. Method: images made by qemu-img, read by
 * us beside a server that has QEMU's own reading of them and notes what it is asked for.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Qcow2Image } from '../../../src/disks/qcow2/image.ts';
import { pieceBuffers, READ_BYTES_MAX } from '../../../src/disks/readable-disk.ts';
import { requireQemu } from '../../support/qemu/require-qemu.ts';

const hasQemu = await requireQemu();

const MIB = 1024 * 1024;
/** Not a multiple of any cluster. */
const DISK_BYTES = 5 * MIB + 512;

let directory: string;
let image: string;

function qemuIo(commands: readonly string[]): void {
  execFileSync('qemu-io', [...commands.flatMap((command) => ['-c', command]), image]);
}

/** The disk as QEMU reads it. */
function content(): Buffer {
  const raw = join(directory, 'content.raw');
  execFileSync('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', image, raw]);
  return readFileSync(raw);
}

/** Reads the disk in pieces. Gives it, and the offsets at which QEMU's server was asked. */
async function readAll(
  isUnwritten: (offset: number, byteCount: number) => boolean = () => true,
): Promise<{ bytes: Buffer; asked: number[] }> {
  const expected = content();
  const asked: number[] = [];
  const served = {
    read: (offset: number, byteCount: number) => {
      asked.push(offset);
      return Promise.resolve(Buffer.from(expected.subarray(offset, offset + byteCount)));
    },
    // What QEMU keeps in memory is not in the file before.
    flush: () => {
      writeFileSync(image, flushed);
      return Promise.resolve();
    },
    close: () => undefined,
  };
  const flushed = readFileSync(image);
  writeFileSync(image, Buffer.concat([flushed.subarray(0, 512), Buffer.alloc(flushed.length)]));
  const disk = await Qcow2Image.open(
    { file: { path: image }, diskBytes: DISK_BYTES, buffers: pieceBuffers(2), isUnwritten },
    () => Promise.resolve(served),
  );
  await disk.prepare();
  const pieces: Buffer[] = [];
  for (let offset = 0; offset < DISK_BYTES; offset += READ_BYTES_MAX) {
    const byteCount = Math.min(READ_BYTES_MAX, DISK_BYTES - offset);
    pieces.push(Buffer.from((await disk.read(offset, byteCount)) ?? Buffer.alloc(byteCount)));
  }
  disk.close();
  const bytes = Buffer.concat(pieces);
  expect(bytes.equals(expected)).toBe(true);
  return { bytes, asked };
}

describe.skipIf(!hasQemu)("a qcow2 disk's file", () => {
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'romulus-qcow2-'));
    image = join(directory, 'disk.qcow2');
  });
  afterEach(() => {
    rmSync(directory, { recursive: true, force: true });
  });

  it.each([
    ['as it is', 'lazy_refcounts=off'],
    ['of version 2', 'compat=0.10'],
    ['with the smallest clusters, and many tables', 'cluster_size=512'],
    ['with the largest clusters', 'cluster_size=2M'],
    ['preallocated', 'preallocation=metadata'],
  ])('is read without QEMU: %s', async (_, options) => {
    const size = String(DISK_BYTES);
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, image, size]);
    // In no order, rewritten, zeros over data, discarded, up to the end.
    qemuIo([
      'write -P 0x11 3M 300k',
      'write -P 0x22 100k 5000',
      'write -P 0x33 0 512',
      `write -P 0x44 ${DISK_BYTES - 512} 512`,
      'write -P 0x55 3100k 64k',
      'write -z 3200k 100k',
      'discard 64k 64k',
      'write -P 0x66 1M 1M',
    ]);
    const { bytes, asked } = await readAll();
    expect(asked).toEqual([]);
    expect(bytes[3 * MIB]).toBe(0x11);
  });

  it('is read through QEMU where it is compressed, and where it was written', async () => {
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', image, String(DISK_BYTES)]);
    qemuIo(['write -P 0x77 1M 1M', 'write -c -P 0x78 2M 64k', 'write -P 0x79 3M 2M']);
    const isUnwritten = (offset: number, byteCount: number): boolean =>
      offset + byteCount <= 3 * MIB || offset >= 4 * MIB;
    expect((await readAll(isUnwritten)).asked).toEqual([2 * MIB, 3 * MIB]);
  });

  it('is read through QEMU where the rest of a written cluster is', async () => {
    const size = String(DISK_BYTES);
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=2M', image, size]);
    qemuIo(['write -P 0x77 0 5M']);
    const written = 3 * MIB;
    const isUnwritten = (offset: number, byteCount: number): boolean =>
      offset > written || offset + byteCount <= written;
    expect((await readAll(isUnwritten)).asked).toEqual([2 * MIB, 3 * MIB]);
  });

  /** Opens a file that will be refused. */
  function openRefused(): Promise<unknown> {
    return Qcow2Image.open(
      {
        file: { path: image },
        diskBytes: DISK_BYTES,
        buffers: pieceBuffers(1),
        isUnwritten: () => true,
      },
      () => Promise.reject(new Error('asked for although the file is refused')),
    );
  }

  it('is left to QEMU with internal snapshots, and when it is mostly compressed', async () => {
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', image, String(DISK_BYTES)]);
    qemuIo(['write -P 0x77 1M 1M']);
    execFileSync('qemu-img', ['snapshot', '-c', 'kept', image]);
    await expect(openRefused()).rejects.toMatchObject({ code: 'ERR_DISK_READ' });
    execFileSync('qemu-img', ['snapshot', '-d', 'kept', image]);
    expect((await readAll()).asked).toEqual([]);
    qemuIo(['write -c -P 0x78 2M 512k', 'write -c -P 0x79 3M 576k']);
    await expect(openRefused()).rejects.toMatchObject({ code: 'ERR_DISK_READ' });
  });

  it('is refused where its form is not known, and where the disk has another size', async () => {
    const base = join(directory, 'base.raw');
    writeFileSync(base, Buffer.alloc(DISK_BYTES));
    for (const [options, size] of [
      [`backing_file=${base},backing_fmt=raw`, DISK_BYTES],
      ['extended_l2=on', DISK_BYTES],
      [`data_file=${join(directory, 'data')},data_file_raw=on`, DISK_BYTES],
      ['lazy_refcounts=off', DISK_BYTES + 512],
    ] as const) {
      execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, image, String(size)]);
      await expect(openRefused()).rejects.toMatchObject({ code: 'ERR_DISK_READ' });
    }
    writeFileSync(image, 'short');
    await expect(openRefused()).rejects.toMatchObject({ code: 'ERR_DISK_READ' });
  });
});
