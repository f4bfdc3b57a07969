/**
 * A machine captured by hand at one instant, and the means to let another QEMU go on from there.
 * The primary's RAM is a shared file, its serial port a raw stream that is kept byte by byte, so that
 * what both sides said can be put together and must read as if nothing had happened.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RomulusError } from '../../../src/base/errors.ts';
import type { GuestDescriptor } from '../../../src/codec/guest-descriptor.ts';
import { guestImage } from '../../../src/drill/qemu/guest-image.ts';
import { type MachineOptions, machineArguments } from '../../../src/drill/qemu/machine.ts';
import { ensureQemu } from '../../../src/drill/qemu/qemu-versions.ts';
import type { CommandLineBuilder } from '../../../src/guests/qemu/incoming.ts';
import { learnFromStream } from '../../../src/guests/qemu/learn.ts';
import type { Learnt } from '../../../src/guests/qemu/stream/collector.ts';
import { QmpClient } from '../../../src/guests/qemu/qmp/qmp-client.ts';
import { Memory } from '../../../src/native/memory.ts';

const WAIT_MS = 30_000;
const MIB = 1024 * 1024;
const ZEROS = Buffer.alloc(MIB);

export interface CaptureOptions extends Partial<MachineOptions> {
  readonly qemu?: string;
  /** The machine runs until its serial port has said this. */
  readonly until: RegExp;
}

/** A serial port as a raw stream. */
export class RawSerial {
  readonly path: string;
  text = '';
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(path: string, server: Server) {
    this.path = path;
    this.#server = server;
    server.on('connection', (socket) => {
      this.#sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('data', (bytes: Buffer) => {
        this.text += bytes.toString('latin1');
      });
    });
  }

  static async listen(path: string): Promise<RawSerial> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(path, resolve));
    return new RawSerial(path, server);
  }

  /** Waits until the text matches. */
  async says(pattern: RegExp): Promise<void> {
    for (const deadlineMs = performance.now() + WAIT_MS; !pattern.test(this.text); ) {
      if (performance.now() > deadlineMs)
        throw new Error(`only this was said: ${this.text.slice(-500)}`);
      await sleep(5);
    }
  }

  close(): void {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
  }
}

/** What a machine was at one instant; nothing of it runs any more. */
export interface CapturedMachine {
  readonly directory: string;
  readonly descriptor: GuestDescriptor;
  readonly contents: ReadonlyMap<string, Uint8Array>;
  readonly deviceState: Buffer;
  /** All that it ever said. */
  readonly said: string;
  /** The command line of a QEMU that can go on, and its serial port. */
  readonly backup: (
    qemu?: string,
  ) => Promise<{ commandLine: CommandLineBuilder; serial: RawSerial }>;
  readonly cleanUp: () => void;
}

/** Runs a machine until it has said something, captures it, and kills it. */
export async function captureMachine(options: CaptureOptions): Promise<CapturedMachine> {
  const image = await guestImage();
  const qemu = options.qemu ?? (await ensureQemu());
  const directory = mkdtempSync('/dev/shm/romulus-test-');
  const ramPath = join(directory, 'ram');
  const machine: MachineOptions = { memoryMib: 64, run: ['counter'], ...options };
  const argsWith = (paths: { name: string; qmp: string; ram: string }): string[] => [
    ...machineArguments(
      image,
      {
        qmp: paths.qmp,
        console: join(directory, `${paths.name}-console`),
        control: join(directory, `${paths.name}-control`),
      },
      machine,
    ),
    '-object',
    `memory-backend-file,id=mem,size=${machine.memoryMib}M,mem-path=${paths.ram},share=on`,
    '-machine',
    'memory-backend=mem',
  ];
  const ports: RawSerial[] = [];
  const listen = async (name: string): Promise<RawSerial> => {
    const serial = await RawSerial.listen(join(directory, `${name}-console`));
    ports.push(serial, await RawSerial.listen(join(directory, `${name}-control`)));
    return serial;
  };
  const serial = await listen('primary');
  const qmpPath = join(directory, 'primary.qmp');
  const child = spawn(qemu, argsWith({ name: 'primary', qmp: qmpPath, ram: ramPath }), {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const cleanUp = (): void => {
    for (const port of ports) port.close();
    rmSync(directory, { recursive: true, force: true });
  };
  try {
    const qmp = await connectedMonitor(qmpPath);
    await serial.says(options.until);
    const { blocks } = await learnFromStream(qmp, directory);
    const small = blocks.slice(1).map(({ name }) => name);
    const learnt = await learnFromStream(qmp, directory, { contentsOf: small });
    await qmp.command('stop');
    const statePath = join(directory, 'state');
    await qmp.command('xen-save-devices-state', { filename: statePath, live: false });
    const ram = readFileSync(ramPath);
    qmp.close();
    await killed(child);
    await sleep(20);
    return {
      directory,
      descriptor: descriptorOf(learnt),
      contents: new Map([...learnt.contents, [blocks[0]?.name ?? '', ram]]),
      deviceState: readFileSync(statePath),
      said: serial.text,
      backup: async (other) => {
        const name = `backup${ports.length}`;
        const backupSerial = await listen(name);
        return {
          serial: backupSerial,
          commandLine: ({ qmpPath: qmp, ramPaths }) => ({
            command: other ?? qemu,
            args: argsWith({ name, qmp, ram: [...ramPaths.values()][0] ?? '' }),
          }),
        };
      },
      cleanUp,
    };
  } catch (error) {
    await killed(child);
    cleanUp();
    throw error;
  }
}

/** Writes what was captured where replication would have. */
export function fill(
  captured: CapturedMachine,
  blocks: readonly { readonly id: number; readonly fd: number; readonly bytes: number }[],
): void {
  for (const { id, fd, bytes } of blocks) {
    const memory = Memory.map({ fd, bytes, writable: true });
    const name = captured.descriptor.blocks.find((block) => block.id === id)?.name ?? '';
    const content = captured.contents.get(name) ?? new Uint8Array(0);
    for (let offset = 0; offset < content.byteLength; offset += MIB) {
      const piece = content.subarray(offset, offset + MIB);
      // Holes stay holes.
      if (!ZEROS.subarray(0, piece.byteLength).equals(piece)) memory.write(offset, piece);
    }
    memory.close();
  }
}

function descriptorOf(learnt: Learnt): GuestDescriptor {
  const blocks = learnt.blocks.map(({ name, usedBytes }, id) => ({ id, name, bytes: usedBytes }));
  return {
    kind: 'qemu',
    name: 'captured',
    blocks,
    disks: [],
    diskMode: 'replicate',
    profile: {
      configuration: Buffer.from(learnt.configuration).toString('base64'),
      ramBlocks: blocks.map(({ id, name, bytes }) => ({
        id,
        name,
        usedBytes: bytes,
        totalBytes: bytes,
        small: id > 0,
      })),
    },
  };
}

/** A QMP connection; the socket's file is there a moment before QEMU listens. */
export async function connectedMonitor(path: string): Promise<QmpClient> {
  for (const deadlineMs = performance.now() + WAIT_MS; ; ) {
    try {
      return await QmpClient.connect(path, { timeoutMs: 20_000 });
    } catch (error) {
      const isTooEarly = (error as RomulusError).code === 'ERR_GUEST_UNREACHABLE';
      if (!isTooEarly || performance.now() > deadlineMs) throw error;
    }
    await sleep(10);
  }
}

async function killed(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await gone;
}
