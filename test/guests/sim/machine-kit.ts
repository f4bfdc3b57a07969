/** What the tests of the simulated machine share: real machines, real sockets, all cleaned up. */
import { mkdtemp, rm } from 'node:fs/promises';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { MIB } from '../../../src/base/units.ts';
import { SimControl } from '../../../src/guests/sim/control.ts';
import { parseSimInfo, type SimInfo } from '../../../src/guests/sim/info.ts';
import {
  decodeMachineFrame,
  type EmitFrame,
  encodeWorldFrame,
  type InputOp,
  type LineOpenFrame,
  type MachineFrame,
} from '../../../src/guests/sim/port.ts';
import { type SimProcess, startSim, type StartSimOptions } from '../../../src/guests/sim/spawn.ts';
import { SimOracle } from '../../../src/native/sim-oracle.ts';

const WAIT_MS = 10_000;

/** Polls until the condition holds. */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + WAIT_MS;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`waited in vain until ${what}`);
    await sleep(2);
  }
}

/** Everything a test starts, so that nothing is left of it. */
export class MachineKit {
  directory = '';
  readonly #machines: SimProcess[] = [];
  readonly #closers: (() => void | Promise<void>)[] = [];
  #count = 0;

  async open(): Promise<void> {
    this.directory = await mkdtemp(join(tmpdir(), 'romulus-sim-'));
  }

  async close(): Promise<void> {
    for (const close of this.#closers.splice(0).toReversed()) await close();
    for (const machine of this.#machines.splice(0)) await machine.stop();
    await rm(this.directory, { recursive: true });
  }

  onClose(closer: () => void | Promise<void>): void {
    this.#closers.push(closer);
  }

  freshPath(): string {
    this.#count += 1;
    return join(this.directory, `m${this.#count}`);
  }

  async start(options: Partial<StartSimOptions> = {}): Promise<SimProcess> {
    const machine = await startSim({
      socketPath: this.freshPath(),
      memoryBytes: 16 * MIB,
      workload: 'random',
      seed: 7n,
      ...options,
    });
    this.#machines.push(machine);
    return machine;
  }

  async control(socketPath: string): Promise<SimControl> {
    const control = await SimControl.connect(socketPath);
    this.onClose(() => {
      control.close();
    });
    return control;
  }

  async port(socketPath: string): Promise<PortClient> {
    const client = await PortClient.connect(`${socketPath}.net`);
    this.onClose(() => {
      client.close();
    });
    return client;
  }

  /** An oracle for the machine that gave this info. */
  oracle(info: SimInfo): SimOracle {
    const oracle = new SimOracle(info);
    this.onClose(() => {
      oracle.close();
    });
    return oracle;
  }
}

export async function infoOf(control: SimControl): Promise<SimInfo> {
  return parseSimInfo(await control.command('info'));
}

/** Paths through which the machine's RAM and disk can be mapped. */
export function pathsOf(info: SimInfo): { readonly ram: string; readonly disk: string } {
  return {
    ram: `/proc/${info.pid}/fd/${info.ramFd}`,
    disk: `/proc/${info.pid}/fd/${info.diskFd}`,
  };
}

/** Runs the machine to exactly this step and leaves it stopped there. */
export async function runToStep(control: SimControl, step: number): Promise<SimInfo> {
  await control.command(`stop-at ${step}`);
  await control.command('cont');
  await until(`step ${step}`, async () => !(await infoOf(control)).running);
  return infoOf(control);
}

/** The world's end of a machine's net socket. */
export class PortClient {
  readonly frames: MachineFrame[] = [];
  readonly payloads: Buffer[] = [];
  closed = false;
  readonly #socket: Socket;
  #rest = Buffer.alloc(0);
  #inputSeq = 0;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk) => {
      this.#rest = Buffer.concat([this.#rest, chunk]);
      while (this.#rest.length >= 4 && this.#rest.length >= 4 + this.#rest.readUInt32BE(0)) {
        const end = 4 + this.#rest.readUInt32BE(0);
        const payload = Buffer.from(this.#rest.subarray(4, end));
        this.payloads.push(payload);
        this.frames.push(decodeMachineFrame(payload));
        this.#rest = this.#rest.subarray(end);
      }
    });
    socket.on('close', () => {
      this.closed = true;
    });
    socket.on('error', () => {
      this.closed = true;
    });
  }

  static async connect(path: string): Promise<PortClient> {
    const socket = createConnection({ path });
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    return new PortClient(socket);
  }

  get emits(): EmitFrame[] {
    return this.frames.filter((frame) => frame.kind === 'emit');
  }

  get lineOpens(): LineOpenFrame[] {
    return this.frames.filter((frame) => frame.kind === 'line-open');
  }

  /** All data that one stream received, as text. */
  textOf(stream: number): string {
    return this.emits
      .filter((emit) => emit.stream === stream && emit.op === 'data')
      .map((emit) => Buffer.from(emit.data).toString('latin1'))
      .join('');
  }

  sendRaw(bytes: Uint8Array): void {
    this.#socket.write(bytes);
  }

  sendPayload(payload: Uint8Array): void {
    const head = Buffer.alloc(4);
    head.writeUInt32BE(payload.length);
    this.sendRaw(Buffer.concat([head, payload]));
  }

  /** Sends the next input, or one with the given seq. */
  input(op: InputOp, stream: number, data: string | Uint8Array = '', seq?: number): void {
    if (seq === undefined) this.#inputSeq += 1;
    this.sendPayload(
      encodeWorldFrame({
        kind: 'input',
        op,
        stream,
        seq: seq ?? this.#inputSeq,
        data: Buffer.from(data),
      }),
    );
  }

  acknowledge(seq: number): void {
    this.sendPayload(encodeWorldFrame({ kind: 'acknowledge', seq }));
  }

  /** Reads nothing any more, without closing. */
  stall(): void {
    this.#socket.pause();
  }

  close(): void {
    this.#socket.destroy();
  }
}
