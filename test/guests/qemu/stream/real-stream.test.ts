/**
 * Goal: whole streams of real QEMUs are read to the devices, with every page of every block. Method:
 * each version at hand migrates a stopped machine into our parser; also with x-ignore-shared, and
 * with a machine type that announces the switchover.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { StreamItem } from '../../../../src/guests/qemu/stream/items.ts';
import { StreamParser } from '../../../../src/guests/qemu/stream/parser.ts';
import { qemuVersions, requireQemu } from '../../../support/qemu/require-qemu.ts';
import { startGuest } from '../../../support/qemu/start-guest.ts';
import { connectedMonitor } from '../machine-pair.ts';

const hasQemu = await requireQemu();
const versions = hasQemu ? await qemuVersions() : [];

/** What a stream came to. */
interface Seen {
  readonly kinds: Map<string, number>;
  readonly machine: string;
  readonly blocks: (StreamItem & { kind: 'blocks' })['blocks'];
  /** Different pages, by block. */
  readonly pages: Map<string, Set<number>>;
  readonly isDone: boolean;
  readonly last: string;
}

async function migrated(binary: string, extraArgs: string[], shared: boolean): Promise<Seen> {
  const directory = mkdtempSync(join(tmpdir(), 'romulus-stream-'));
  const guest = await startGuest({ qemu: binary, bare: true, memoryMib: 64, extraArgs });
  try {
    const qmp = await connectedMonitor(guest.qmpPath);
    await qmp.command('stop');
    await qmp.command('migrate-set-capabilities', {
      capabilities: [{ capability: 'x-ignore-shared', state: shared }],
    });
    const path = join(directory, 'stream.sock');
    const parser = new StreamParser();
    const items: StreamItem[] = [];
    const pages = new Map<string, Set<number>>();
    const take = (item: StreamItem): void => {
      items.push(item.kind === 'page' ? { ...item, content: new Uint8Array(0) } : item);
      if (item.kind !== 'page' && item.kind !== 'fill') return;
      const offsets = pages.get(item.block) ?? new Set();
      pages.set(item.block, offsets.add(item.offset));
    };
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(path, resolve));
    const through = new Promise<void>((resolve, reject) => {
      server.once('connection', (socket) => {
        socket.on('data', (chunk) => {
          try {
            for (const item of parser.push(chunk)) take(item);
          } catch (error) {
            reject(error);
            socket.destroy();
          }
        });
        socket.once('close', () => resolve());
      });
    });
    await qmp.command('migrate', { uri: `unix:${path}` });
    await through;
    server.close();
    qmp.close();
    const kinds = new Map<string, number>();
    for (const { kind } of items) kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    const blocks = items.find((item) => item.kind === 'blocks')?.blocks ?? [];
    const machine = items.find((item) => item.kind === 'configuration')?.machine ?? '';
    const { isDone } = parser;
    return { kinds, machine, blocks, pages, isDone, last: items.at(-1)?.kind ?? '' };
  } finally {
    await guest.stop();
    rmSync(directory, { recursive: true });
  }
}

describe.skipIf(!hasQemu)('a whole stream', () => {
  it.each(versions)('of QEMU $version is read to the devices', async ({ binary }) => {
    const seen = await migrated(binary, [], false);
    expect(seen.last).toBe('devices');
    expect(seen.isDone).toBe(true);
    expect(seen.blocks.length).toBeGreaterThan(4);
    for (const { name, usedBytes } of seen.blocks) {
      expect([name, seen.pages.get(name)?.size]).toEqual([name, usedBytes / 4096]);
    }
    // Machine types from 10.0 on announce the switchover by a command.
    const [, major] = /-(\d+)\.\d+$/.exec(seen.machine) ?? [];
    expect(seen.kinds.get('command') ?? 0).toBe(Number(major) >= 10 ? 1 : 0);
  });

  it.each(versions)('of QEMU $version may leave shared RAM out', async ({ binary }) => {
    const file = `/dev/shm/romulus-stream-${process.pid}`;
    const object = `memory-backend-file,id=mem,size=64M,mem-path=${file},share=on`;
    try {
      const extraArgs = ['-object', object, '-machine', 'memory-backend=mem'];
      const seen = await migrated(binary, extraArgs, true);
      expect(seen.last).toBe('devices');
      expect(seen.blocks[0]).toMatchObject({ usedBytes: 64 * 1024 * 1024 });
      expect(seen.blocks.every(({ address }) => address !== null)).toBe(true);
      expect(seen.pages.has(seen.blocks[0]?.name ?? '')).toBe(false);
      expect(seen.pages.get('pc.bios')?.size).toBe(64);
    } finally {
      rmSync(file, { force: true });
    }
  });
});
