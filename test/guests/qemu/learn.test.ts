/**
 * Goal: what a running QEMU's stream tells is learnt without stopping the machine or leaving a trace
 * in it. Method: real QEMUs of every version at hand, and a small one that could complete.
 */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { learnFromStream } from '../../../src/guests/qemu/learn.ts';
import type { QmpClient } from '../../../src/guests/qemu/qmp/qmp-client.ts';
import { qemuVersions, requireQemu } from '../../support/qemu/require-qemu.ts';
import {
  type GuestOptions,
  type RunningGuest,
  startGuest,
} from '../../support/qemu/start-guest.ts';
import { connectedMonitor } from './machine-pair.ts';

const hasQemu = await requireQemu();
const versions = hasQemu ? await qemuVersions() : [];

let directory: string;
const closers: (() => Promise<void> | void)[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'romulus-learn-'));
});

afterEach(async () => {
  for (const close of closers.splice(0).toReversed()) await close();
  expect(readdirSync(directory)).toEqual([]);
  rmSync(directory, { recursive: true });
});

async function started(options: GuestOptions): Promise<{ guest: RunningGuest; qmp: QmpClient }> {
  const guest = await startGuest(options);
  closers.push(() => guest.stop());
  const qmp = await connectedMonitor(guest.qmpPath);
  closers.push(() => qmp.close());
  return { guest, qmp };
}

async function settingsOf(qmp: QmpClient): Promise<unknown[]> {
  return [
    await qmp.command('query-migrate-capabilities'),
    await qmp.command('query-migrate-parameters'),
    await qmp.command('query-status'),
  ];
}

describe.skipIf(!hasQemu)('learning from the stream', () => {
  it.each(versions)('of QEMU $version does not stop the machine', async ({ binary }) => {
    const { qmp } = await started({ qemu: binary, bootWait: false });
    const stops: string[] = [];
    qmp.onEvent(({ event }) => stops.push(event));
    const before = await settingsOf(qmp);
    const learnt = await learnFromStream(qmp, directory);
    expect(learnt.machine).toMatch(/^pc-/);
    expect(learnt.configuration[0]).toBe(7);
    expect(learnt.blocks[0]?.usedBytes).toBe(256 * 1024 * 1024);
    expect(learnt.blocks.map(({ name }) => name)).toContain('/rom@etc/acpi/tables');
    expect(stops.filter((event) => event === 'STOP' || event === 'RESUME')).toEqual([]);
    expect(await settingsOf(qmp)).toEqual(before);
    // And again: a cancelled migration is no obstacle.
    expect(await learnFromStream(qmp, directory)).toEqual(learnt);
  });

  it.each(versions)('of QEMU $version finds the contents of small blocks', async ({ binary }) => {
    const { qmp } = await started({ qemu: binary, bootWait: false });
    const before = await settingsOf(qmp);
    const names = ['pc.rom', '/rom@etc/table-loader', 'pc.bios'];
    const learnt = await learnFromStream(qmp, directory, { contentsOf: names });
    expect([...learnt.contents.keys()]).toEqual(names);
    // The last sixteen bytes of a BIOS begin with a jump, and the table loader is a list of names.
    expect(learnt.contents.get('pc.bios')?.at(-16)).toBe(0xea);
    expect(Buffer.from(learnt.contents.get('/rom@etc/table-loader') ?? []).toString()).toContain(
      'etc/acpi/rsdp',
    );
    expect(await settingsOf(qmp)).toEqual(before);
  });

  it('keeps a paused machine paused, and settings of its user', async () => {
    const { qmp } = await started({ bootWait: false });
    await qmp.command('stop');
    await qmp.command('migrate-set-capabilities', {
      capabilities: [
        { capability: 'xbzrle', state: true },
        { capability: 'multifd', state: true },
        { capability: 'x-ignore-shared', state: true },
        { capability: 'validate-uuid', state: true },
      ],
    });
    await qmp.command('migrate-set-parameters', { 'max-bandwidth': 12_345_678 });
    const before = await settingsOf(qmp);
    const learnt = await learnFromStream(qmp, directory);
    expect(learnt.configuration.byteLength).toBeLessThan(30);
    expect(await settingsOf(qmp)).toEqual(before);
  });

  it('is refused in QEMU’s own words where a device cannot be migrated', async () => {
    const { qmp } = await started({
      bootWait: false,
      extraArgs: [
        '-blockdev',
        'driver=null-co,node-name=n,size=1048576,read-zeroes=on',
        '-device',
        'nvme,serial=x,drive=n',
      ],
    });
    const before = await settingsOf(qmp);
    await expect(learnFromStream(qmp, directory)).rejects.toMatchObject({
      code: 'ERR_GUEST_UNMIGRATABLE',
      message: expect.stringMatching(/non-migratable device.*nvme/) as string,
    });
    expect(await settingsOf(qmp)).toEqual(before);
  });
});
