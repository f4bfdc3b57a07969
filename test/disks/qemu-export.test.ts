/** Goal: QEMU's server is ended when it is ours and idle, and whoever is late or busy is not waited for. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { RomulusError } from '../../src/base/errors.ts';
import { DiskReaders, type DiskToRead } from '../../src/disks/disk-readers.ts';
import { findDisks } from '../../src/disks/found-disks.ts';
import { greeting } from '../../src/disks/nbd/protocol.ts';
import { type DescriptorMonitor, QemuExport, removeExports } from '../../src/disks/qemu-export.ts';
import { pieceBuffers } from '../../src/disks/readable-disk.ts';

let directory: string;
let path: string;
let orders: string[];
/** Exports, and how often they are asked for until they are gone once told to go. */
let exported: string[];
let asksUntilGone: number;
let late: string;

function monitor(): DescriptorMonitor {
  let isGoing = false;
  const answers: Record<string, () => unknown> = {
    'query-block': () => [
      {
        device: 'd',
        inserted: { 'node-name': 'n', ro: false, image: { 'virtual-size': 4096 } },
      },
    ],
    'query-version': () => ({ qemu: { major: 10, minor: 0 } }),
    'query-block-exports': () => {
      if (isGoing) asksUntilGone -= 1;
      if (asksUntilGone < 0) exported = [];
      return exported.map((id) => ({ id, 'shutting-down': isGoing }));
    },
    'block-export-del': () => {
      isGoing = true;
      return {};
    },
  };
  const command = (name: string): Promise<unknown> => {
    if (!name.startsWith('query-')) orders.push(name);
    if (name !== late) return Promise.resolve(answers[name]?.() ?? {});
    return Promise.reject(new RomulusError('ERR_TIMEOUT_GUEST_CONTROL', 'late', { remedy: '-' }));
  };
  return {
    command,
    commandWithDescriptor: command,
    onEvent: () => () => undefined,
    onEnd: () => undefined,
  };
}

/** What greets at our path as QEMU's server does. */
async function listenAsQemu(): Promise<Server> {
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.on('data', () => undefined);
    socket.write(greeting());
  });
  await new Promise<void>((resolve) => {
    server.listen(path, resolve);
  });
  return server;
}

/** A disk in a qcow2 file that has nothing in it. */
function emptyQcow2(name: string): DiskToRead {
  const header = Buffer.alloc(2 * 65_536);
  header.writeUInt32BE(0x51_46_49_fb, 0);
  header.writeUInt32BE(3, 4);
  header.writeUInt32BE(16, 20);
  header.writeBigUInt64BE(4096n, 24);
  header.writeUInt32BE(1, 36);
  header.writeBigUInt64BE(65_536n, 40);
  const file = join(directory, name);
  writeFileSync(file, header);
  return {
    device: name,
    node: name,
    diskBytes: 4096,
    image: null,
    isWhole: true,
    guestDevice: null,
    file: { path: file, format: 'qcow2' },
  };
}

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'romulus-export-'));
  path = join(directory, 'export.sock');
  orders = [];
  exported = [];
  asksUntilGone = 0;
  late = '';
});

afterEach(() => {
  rmSync(directory, { recursive: true, force: true });
});

describe("QEMU's server of its disks", () => {
  it('is stopped once its exports are gone', async () => {
    exported = ['romulus-x0', 'romulus-x1'];
    asksUntilGone = 3;
    await removeExports(monitor());
    expect(orders).toEqual(['block-export-del', 'block-export-del', 'nbd-server-stop']);
    expect(asksUntilGone).toBe(-1);
  });

  it('is not stopped while it is busy', async () => {
    exported = ['romulus-x0'];
    asksUntilGone = Infinity;
    await expect(removeExports(monitor())).rejects.toMatchObject({ code: 'ERR_DISK_READ' });
    expect(orders).toEqual(['block-export-del']);
  });

  it("stays when it is somebody else's", async () => {
    exported = ['theirs'];
    await removeExports(monitor(), path);
    expect(orders).toEqual([]);
  });

  it('is known by the path at which it listens, when it has no exports', async () => {
    const server = await listenAsQemu();
    await removeExports(monitor(), path);
    expect(orders).toEqual(['nbd-server-stop']);
    await new Promise((resolve) => server.close(resolve));
    orders = [];
    await removeExports(monitor(), path);
    expect(orders).toEqual([]);
  });

  it('is done without when it is late, and found again by its path', async () => {
    late = 'nbd-server-start';
    await expect(QemuExport.open(monitor(), path)).rejects.toMatchObject({ code: 'ERR_DISK_READ' });
    expect(orders).not.toContain('nbd-server-stop');
    expect(existsSync(path)).toBe(true);
  });

  it('is asked for once when it is late, however many disks there are', async () => {
    late = 'nbd-server-start';
    const readers = await DiskReaders.ofFiles(monitor(), {
      disks: [emptyQcow2('d0'), emptyQcow2('d1')],
      buffers: pieceBuffers(1),
      exportPath: path,
      isUnwritten: () => true,
    });
    expect(readers.disks).toEqual([]);
    expect(orders).toEqual(['getfd', 'nbd-server-start', 'closefd']);
    expect(existsSync(path)).toBe(true);
  });

  it('is ended before another one is started at its path', async () => {
    const server = await listenAsQemu();
    const served = await QemuExport.open(monitor(), path);
    expect(orders).toEqual(['nbd-server-stop', 'getfd', 'nbd-server-start']);
    await served.close();
    await new Promise((resolve) => server.close(resolve));
  });

  it('is done without when it is late with a disk', async () => {
    late = 'block-export-add';
    const served = await QemuExport.open(monitor(), path);
    const [found] = await findDisks(monitor(), ['d']);
    if (found === undefined) throw new Error('no disk');
    await expect(served.reader(0, found)).rejects.toMatchObject({ code: 'ERR_DISK_READ' });
    await served.close();
    expect(orders.at(-1)).toBe('nbd-server-stop');
    expect(existsSync(path)).toBe(false);
  });
});
