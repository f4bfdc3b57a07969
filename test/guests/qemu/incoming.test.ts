/**
 * Goal: a prepared QEMU goes on exactly where the captured machine stopped, within one version and
 * across versions, and whatever goes wrong leaves no half-running copy and nothing behind. Method:
 * real QEMUs; the counter of the guest without any system, read byte by byte on both sides.
 */
import { readdirSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { RomulusError } from '../../../src/base/errors.ts';
import {
  type PrepareIncomingQemuOptions,
  prepareIncomingQemu,
} from '../../../src/guests/qemu/incoming.ts';
import type { IncomingQemu } from '../../../src/guests/qemu/incoming/incoming-qemu.ts';
import { QmpClient } from '../../../src/guests/qemu/qmp/qmp-client.ts';
import { qemuVersions, requireQemu } from '../../support/qemu/require-qemu.ts';
import {
  type CapturedMachine,
  type CaptureOptions,
  captureMachine,
  fill,
  type RawSerial,
} from './machine-pair.ts';

const hasQemu = await requireQemu();
const versions = hasQemu ? await qemuVersions() : [];
/** Two machines, of which one boots a whole Linux. */
const TIMEOUT_MS = 90_000;
const BARE: CaptureOptions = {
  bare: true,
  machine: 'pc-q35-7.2',
  cpu: 'qemu64',
  until: /c 20\r?\n/,
};

const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).toReversed()) await close();
});

async function captured(options: Partial<CaptureOptions> = {}): Promise<CapturedMachine> {
  const machine = await captureMachine({ ...BARE, ...options });
  closers.push(machine.cleanUp);
  return machine;
}

async function prepared(
  machine: CapturedMachine,
  qemu?: string,
  more: Partial<PrepareIncomingQemuOptions> = {},
): Promise<{ incoming: IncomingQemu; serial: RawSerial }> {
  const { commandLine, serial } = await machine.backup(qemu);
  const { descriptor, directory } = machine;
  const incoming = await prepareIncomingQemu({ descriptor, directory, commandLine, ...more });
  closers.push(() => incoming.discard());
  return { incoming, serial };
}

async function started(incoming: IncomingQemu, state: Uint8Array): Promise<void> {
  const guest = await incoming.start(state);
  closers.push(() => guest.fence());
}

/** The numbers that a text counts; it must count without gap or repetition. */
function counted(text: string): number {
  const numbers = [...text.matchAll(/c (\d+)\r?\n/g)].map((match) => Number(match[1]));
  numbers.forEach((number, index) => expect(number).toBe((numbers[0] ?? 0) + index));
  expect(text).not.toContain('BAD');
  return numbers.at(-1) ?? 0;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    expect((error as NodeJS.ErrnoException).code).toBe('ESRCH');
    return false;
  }
}

async function refusal(promise: Promise<unknown>): Promise<RomulusError> {
  const error: unknown = await promise.then(
    () => null,
    (error: unknown) => error,
  );
  expect(error).toBeInstanceOf(RomulusError);
  return error as RomulusError;
}

describe.skipIf(!hasQemu)('a prepared QEMU', { timeout: TIMEOUT_MS }, () => {
  const pairs = versions.flatMap((from) => versions.map((to) => ({ from, to })));
  it.each(pairs)('$to.version goes on where $from.version stopped', async ({ from, to }) => {
    const machine = await captured({ qemu: from.binary });
    const { incoming, serial } = await prepared(machine, to.binary);
    fill(machine, incoming.blocks);
    await started(incoming, machine.deviceState);
    const before = counted(machine.said);
    await serial.says(/(?:c \d+\r?\n){20}/);
    expect(counted(machine.said + serial.text)).toBeGreaterThan(before + 10);
    // The monitor is free for whoever attaches next.
    const qmp = await QmpClient.connect(incoming.controlPath);
    expect(await qmp.command('query-status')).toMatchObject({ status: 'running' });
    qmp.close();
  });

  it.each(versions)('stands when its user had paused it, in QEMU $version', async ({ binary }) => {
    const machine = await captured({ qemu: binary });
    const { incoming, serial } = await prepared(machine, binary);
    fill(machine, incoming.blocks);
    const guest = await incoming.start(machine.deviceState, { staysPaused: true });
    closers.push(() => guest.fence());
    const qmp = await QmpClient.connect(incoming.controlPath);
    closers.push(() => qmp.close());
    expect(await qmp.command('query-status')).toMatchObject({ status: 'paused' });
    await sleep(200);
    expect(serial.text).toBe('');
    await qmp.command('cont');
    await serial.says(/(?:c \d+\r?\n){10}/);
    counted(machine.said + serial.text);
  });

  it('is a Linux that did not notice', async () => {
    const machine = await captured({ bare: false, memoryMib: 256, until: /c 150\r?\n/ });
    const { incoming, serial } = await prepared(machine);
    fill(machine, incoming.blocks);
    await started(incoming, machine.deviceState);
    await serial.says(/(?:c \d+\r?\n){100}/);
    counted(machine.said.slice(machine.said.indexOf('c 1')) + serial.text);
  });

  it('takes what small blocks became while it waited', async () => {
    const machine = await captured();
    const { incoming, serial } = await prepared(machine);
    fill(machine, incoming.blocks);
    // Time for the contents to go out in the background, then a change that only `start` sees.
    await sleep(600);
    const bios = machine.contents.get('/rom@etc/acpi/tables');
    bios?.fill(0x5a, 4096, 4100);
    fill(machine, incoming.blocks);
    const guest = await incoming.start(machine.deviceState);
    closers.push(() => guest.fence());
    expect(guest.times.pageCount).toBe(1);
    await serial.says(/(?:c \d+\r?\n){10}/);
  });

  it('starts from what it was made ready for, and from a later state as things are then', async () => {
    for (const { isLater, pageCount } of [
      { isLater: false, pageCount: 0 },
      { isLater: true, pageCount: 1 },
    ]) {
      const machine = await captured();
      const { incoming, serial } = await prepared(machine);
      fill(machine, incoming.blocks);
      const { deviceState, contents } = machine;
      expect(() => incoming.beforeLoad(deviceState.subarray(0, 1000))).toThrow(/cut short/);
      incoming.beforeLoad(deviceState);
      if (isLater) {
        contents.get('/rom@etc/acpi/tables')?.fill(0x5a, 4096, 4100);
        fill(machine, incoming.blocks);
      }
      const guest = await incoming.start(isLater ? Buffer.from(deviceState) : deviceState);
      closers.push(() => guest.fence());
      expect(guest.times.pageCount).toBe(pageCount);
      await serial.says(/(?:c \d+\r?\n){10}/);
    }
  });

  it('is loaded before it may run, waits, and runs at the last bytes', async () => {
    const machine = await captured();
    const { incoming, serial } = await prepared(machine);
    fill(machine, incoming.blocks);
    const half = machine.deviceState.subarray(0, machine.deviceState.byteLength >> 1);
    expect(() => incoming.load(half)).toThrow(/cut short/);
    incoming.load(machine.deviceState);
    incoming.load(machine.deviceState);
    // It says nothing, and cannot be given another state.
    await sleep(300);
    expect(serial.text).toBe('');
    expect(isAlive(incoming.pid)).toBe(true);
    const other = Buffer.from(machine.deviceState);
    expect(() => incoming.load(other)).toThrow(/was loaded before/);
    expect(await refusal(incoming.start(other))).toMatchObject({ code: 'ERR_GUEST_STATE' });
    const before = counted(machine.said);
    await started(incoming, machine.deviceState);
    await serial.says(/(?:c \d+\r?\n){20}/);
    expect(counted(machine.said + serial.text)).toBeGreaterThan(before + 10);
  });

  it('ends when it was loaded and is given up, or refuses what it was loaded with', async () => {
    const machine = await captured();
    const first = await prepared(machine);
    first.incoming.load(machine.deviceState);
    await first.incoming.discard();
    expect(isAlive(first.incoming.pid)).toBe(false);
    expect(first.serial.text).toBe('');
    const { incoming } = await prepared(machine);
    const lost = new Promise<string>((resolve) => {
      incoming.onLost(resolve);
    });
    const state = Buffer.from(machine.deviceState);
    state.write('tImer', state.indexOf('timer'), 'latin1');
    incoming.load(state);
    expect(await lost).toMatch(/tImer/);
    expect(await refusal(incoming.start(state))).toMatchObject({ code: 'ERR_GUEST_STATE' });
  });

  it('refuses a damaged state and can still be started with a whole one', async () => {
    const machine = await captured();
    const { incoming, serial } = await prepared(machine);
    fill(machine, incoming.blocks);
    const half = machine.deviceState.subarray(0, machine.deviceState.byteLength >> 1);
    const torn = Buffer.from(machine.deviceState);
    torn.fill(0, torn.byteLength - 8);
    for (const state of [half, half.subarray(0, 3), new Uint8Array(0), torn]) {
      const error = await refusal(incoming.start(state));
      expect(error).toMatchObject({ code: 'ERR_GUEST_STATE_CORRUPT' });
    }
    // QEMU heard nothing of it.
    expect(serial.text).toBe('');
    await started(incoming, machine.deviceState);
    await serial.says(/(?:c \d+\r?\n){10}/);
    expect(await refusal(incoming.start(machine.deviceState))).toMatchObject({
      code: 'ERR_GUEST_STATE',
    });
  });

  it('that refuses a state is dead, and says why', async () => {
    const machine = await captured();
    const { incoming } = await prepared(machine);
    fill(machine, incoming.blocks);
    const state = Buffer.from(machine.deviceState);
    // The name of a device it does not have, in an otherwise whole state.
    state.write('tImer', state.indexOf('timer'), 'latin1');
    const error = await refusal(incoming.start(state));
    expect(error).toMatchObject({ code: 'ERR_GUEST_START' });
    expect(error.message).toMatch(/tImer/);
    expect(isAlive(incoming.pid)).toBe(false);
  });

  it('of another machine is refused before anything is replicated', async () => {
    const machine = await captured();
    const { descriptor } = machine;
    const { profile } = descriptor;
    const other = (changes: object): Promise<RomulusError> =>
      refusal(
        prepared(machine, undefined, {
          descriptor: { ...descriptor, profile: { ...profile, ...changes } },
        }),
      );
    const configuration = Buffer.from(String(profile['configuration']), 'base64');
    configuration.write('pc-q35-7.1', 5, 'latin1');
    const error = await other({ configuration: configuration.toString('base64') });
    expect(error).toMatchObject({ code: 'ERR_GUEST_START' });
    expect(error.message).toMatch(/[Mm]achine type/);
    const renamed = <T extends { name: string }>(blocks: readonly T[]): T[] =>
      blocks.map((block) =>
        block.name === 'pc.rom' ? Object.assign({}, block, { name: 'pc.ram2' }) : block,
      );
    const ramBlocks = renamed(profile['ramBlocks'] as { name: string }[]);
    const blocks = renamed(descriptor.blocks);
    const unknown = await refusal(
      prepared(machine, undefined, {
        descriptor: { ...descriptor, blocks, profile: { ...profile, ramBlocks } },
      }),
    );
    expect(unknown.message).toMatch(/pc\.ram2/);
  });

  it('is not made from a description that makes no sense', async () => {
    const machine = await captured();
    const { descriptor } = machine;
    const { profile } = descriptor;
    const [main, ...small] = profile['ramBlocks'] as { usedBytes: number; name: string }[];
    const broken: object[] = [
      { configuration: 'AAAA' },
      { configuration: '%' },
      {
        ramBlocks: [
          main,
          ...small.map(({ name }) => ({ name, usedBytes: 100, id: 1, small: true })),
        ],
      },
      { ramBlocks: [main, small[0], small[0]] },
      { ramBlocks: [{ id: 9, name: 'elsewhere', usedBytes: 4096, small: true }] },
      { ramBlocks: [{ id: 9, name: 'x\n', usedBytes: 4096, small: true }] },
      { ramBlocks: [{ id: 9, name: 'pc.rom', usedBytes: 2 ** 50, small: true }] },
    ];
    for (const changes of broken) {
      const wrong = { ...descriptor, profile: { ...profile, ...changes } };
      const error = await refusal(prepared(machine, undefined, { descriptor: wrong }));
      expect([changes, error.code]).toEqual([changes, 'ERR_GUEST_DESCRIPTOR']);
    }
  });

  it('cannot be had where memory or the program is missing', async () => {
    const machine = await captured();
    const { descriptor } = machine;
    const blocks = descriptor.blocks.map((block) => ({ ...block, bytes: block.bytes + 2 ** 45 }));
    const space = await refusal(
      prepared(machine, undefined, { descriptor: { ...descriptor, blocks } }),
    );
    expect(space.code).toBe('ERR_HOST_SPACE');
    expect(space.message).toMatch(/needs \d+ MiB of memory, this host has \d+ MiB free/);
    const missing = await refusal(prepared(machine, '/nowhere/qemu'));
    expect(missing).toMatchObject({ code: 'ERR_GUEST_START' });
    const broken = await refusal(
      prepared(machine, undefined, {
        commandLine: () => ({ command: 'qemu-system-x86_64', args: ['-machine', 'none-such'] }),
      }),
    );
    expect(broken.message).toMatch(/unsupported machine type/);
    expect(broken.remedy).toMatch(/machine type/);
  });

  it('keeps its main memory where it is told to', async () => {
    const machine = await captured();
    const { incoming, serial } = await prepared(machine, undefined, { ramDirectory: '/dev/shm' });
    expect(readlinkSync(`/proc/${incoming.pid}/fd/4`)).toMatch(/^\/dev\/shm\/romulus-.*deleted/);
    fill(machine, incoming.blocks);
    await started(incoming, machine.deviceState);
    await serial.says(/(?:c \d+\r?\n){10}/);
  });

  it('that dies while it waits is told of', async () => {
    const machine = await captured();
    const { incoming } = await prepared(machine);
    const lost = new Promise<string>((resolve) => incoming.onLost(resolve));
    process.kill(incoming.pid, 'SIGKILL');
    expect(await lost).toMatch(/SIGKILL/);
    expect(await refusal(incoming.start(machine.deviceState))).toMatchObject({
      code: 'ERR_GUEST_STATE',
    });
  });

  it('leaves nothing behind when it is given up', async () => {
    const machine = await captured();
    const { incoming } = await prepared(machine);
    expect(isAlive(incoming.pid)).toBe(true);
    await incoming.discard();
    await incoming.discard();
    expect(isAlive(incoming.pid)).toBe(false);
    expect(readdirSync(machine.directory).filter((name) => name.endsWith('.qmp'))).toEqual([
      'primary.qmp',
    ]);
  });
});
