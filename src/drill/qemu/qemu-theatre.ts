/**
 * The theatre of a QEMU machine: a stock QEMU with the test guest in it, and the consoles of both
 * sides, which are read here whichever side runs.
 */
import { writeFileSync } from 'node:fs';
import { RomulusError } from '../../base/errors.ts';
import { releaseAbandoned } from '../../guests/qemu/state-folder.ts';
import type { Child } from '../children.ts';
import type { TwoHosts } from '../hosts/two-hosts.ts';
import type { QemuDrillOptions } from '../options.ts';
import { NAMES, type OnProgress, Theatre } from '../theatre.ts';
import { ControlLine } from './control-line.ts';
import type { Say } from './debian.ts';
import { type GuestImage, guestImage } from './guest-image.ts';
import { CONSOLE_ID, CONTROL_ID, machineArguments } from './machine.ts';
import { ensureQemu, QEMU_VERSIONS, qemuOfVersion, versionOf } from './qemu-versions.ts';
import type { GuestWord } from './qemu-checks.ts';
import { SerialLine, type SerialText } from './serial-line.ts';
import { servicesImage } from './services-image.ts';
import { hostNamed, Surroundings } from './surroundings.ts';

const MIB = 1024 * 1024;
/** Longest wait for the guest to have booted; two busy cores take ten seconds. */
const BOOT_WAIT_MS = 90_000;
/** What QEMUs of different versions all have. */
const COMMON_MACHINE = 'pc-q35-7.2';
const COMMON_CPU = 'qemu64';

const PROGRAMS: Record<QemuDrillOptions['workload'], readonly string[]> = {
  pattern: [],
  dirty: ['dirty'],
  work: ['work'],
  shell: ['shell'],
  all: ['dirty', 'work', 'shell'],
  bare: [],
};
/** Lines a second: several in every epoch. */
const COUNTER_RATE = 200;
const PATTERN_SETTINGS = '32/100';
/** With servers beside it, and clients that wait for them. */
const LIGHT_PATTERN_SETTINGS = '16/25';

/** What of QEMU a drill uses, found before anything starts. */
interface Parts {
  readonly image: GuestImage;
  /** QEMU of the primary and of the backup. */
  readonly binaries: readonly [string, string];
  readonly machine: string;
  /** Null: as the machine has it by default. */
  readonly cpu: string | null;
}

/** The serial ports of one side. */
interface Ports {
  readonly console: SerialLine;
  readonly control: SerialLine;
  readonly ask: ControlLine;
}

async function binaryOf(wanted: string, say: Say): Promise<string> {
  if (wanted === 'system') return await ensureQemu(say);
  return Object.hasOwn(QEMU_VERSIONS, wanted) ? await qemuOfVersion(wanted, say) : wanted;
}

async function findParts(options: QemuDrillOptions, say: Say): Promise<Parts> {
  const binaries = [
    await binaryOf(options.qemu, say),
    await binaryOf(options.backupQemu, say),
  ] as const;
  const versions = await Promise.all(binaries.map(versionOf));
  say(`QEMU ${versions.join(' and ')}`);
  const alike = versions[0] === versions[1];
  const image = await guestImage(say);
  return {
    image: options.disk || options.net ? await servicesImage(image, say) : image,
    binaries,
    machine: options.machine ?? (alike ? 'q35' : COMMON_MACHINE),
    cpu: options.cpu ?? (alike ? null : COMMON_CPU),
  };
}

/** A drill's cast with a QEMU machine. */
export class QemuTheatre extends Theatre<QemuDrillOptions> {
  override readonly outputWord = 'lines of the console';
  // A console belongs to the machine's host, not to the world outside.
  override readonly outputIsHeld = false;
  readonly #parts: Parts;
  #surroundings: Surroundings | null = null;
  #heldFramesMax = 0;
  #ports: readonly Ports[] = [];
  #machine: Child | null = null;

  private constructor(options: QemuDrillOptions, onProgress: OnProgress, parts: Parts) {
    super(options, (node, status) => {
      this.#heldFramesMax = Math.max(this.#heldFramesMax, status.outputHeldFrames);
      onProgress(node, status);
    });
    this.#parts = parts;
  }

  /** Finds QEMU and the guest, installing and building what is missing, and sets the stage. */
  static async open(
    options: QemuDrillOptions,
    onProgress: OnProgress,
    say: Say,
  ): Promise<QemuTheatre> {
    const theatre = new QemuTheatre(options, onProgress, await findParts(options, say));
    try {
      theatre.#surroundings = await Surroundings.make(options, theatre.stage, say);
      await theatre.layOut();
      await theatre.#listen();
      return theatre;
    } catch (error) {
      await theatre.close({ keepFiles: false });
      throw error;
    }
  }

  get surroundings(): Surroundings {
    if (this.#surroundings === null) throw new RangeError('the stage is not set yet');
    return this.#surroundings;
  }

  /** Most frames that a node said to hold back, of all that it said. */
  get heldFramesMax(): number {
    return this.#heldFramesMax;
  }

  override get machine(): Child {
    if (this.#machine === null) throw new RangeError('the machine was not started');
    return this.#machine;
  }

  get #hosts(): TwoHosts | null {
    return this.#surroundings?.hosts ?? null;
  }

  get qmpSocket(): string {
    return this.stage.path('qmp.sock');
  }

  /** Everything read from a side's console so far. */
  consoleOf(index: 0 | 1): readonly SerialText[] {
    return this.#portsOf(index).console.lines;
  }

  /** Lines that were not kept, because there were too many. */
  get droppedLines(): number {
    return this.#ports.reduce((sum, ports) => sum + ports.console.droppedCount, 0);
  }

  override heardCounts(): Promise<readonly number[]> {
    return Promise.resolve(this.#ports.map(({ console }) => console.lines.length));
  }

  /** Starts QEMU and waits until the guest has booted and runs its programs. */
  async startMachine(): Promise<void> {
    const { memoryBytes, workload, accelerator } = this.options;
    const firstWord = workload === 'bare' ? 'c ' : 'ready';
    const { image, binaries, machine, cpu } = this.#parts;
    const ports = this.#portsOf(0);
    const around = this.surroundings;
    this.#machine = this.stage.start({
      name: 'machine',
      launcher: this.launcherOf(0),
      command: binaries[0],
      args: machineArguments(
        image,
        { qmp: this.qmpSocket, console: ports.console.path, control: ports.control.path },
        {
          memoryMib: Math.floor(memoryBytes / MIB),
          run: ['counter', 'pattern', ...around.programs, ...PROGRAMS[workload]],
          kernelArgs: [
            `romulus.counter=${COUNTER_RATE}`,
            `romulus.pattern=${around.hosts === null ? PATTERN_SETTINGS : LIGHT_PATTERN_SETTINGS}`,
            ...around.kernelArgs(),
          ],
          extraArgs: around.machineArgs(),
          machine,
          ...(cpu !== null && { cpu }),
          accelerator,
          bare: workload === 'bare',
        },
      ),
      output: 'log',
    });
    const { gone } = this.#machine;
    await Promise.race([
      gone.then((end) => {
        throw new RomulusError('ERR_GUEST_START', `QEMU ended while the guest booted: ${end}`, {
          remedy: `Read ${this.stage.path('machine.log')}.`,
        });
      }),
      ports.console.waitFor(firstWord, (text) => text.startsWith(firstWord), {
        withinMs: BOOT_WAIT_MS,
      }),
    ]);
  }

  /**
   * Has the guest of a side check itself; null when it has no system that could.
   * @throws {RomulusError} ERR_TIMEOUT_SERIAL, ERR_GUEST_COMMAND
   */
  async examine(index: 0 | 1): Promise<GuestWord | null> {
    if (this.options.workload === 'bare') return null;
    const { ask } = this.#portsOf(index);
    const [pattern = 'no answer'] = await ask.command('check');
    const complaints = await ask.command('complaints');
    const askedAtMs = performance.now();
    const [uptime = ''] = await ask.command('uptime');
    const uptimeMs = Number(uptime.split(' ')[0]) * 1000;
    return { pattern, complaints, uptimeMs, askedAtMs, answeredAtMs: performance.now() };
  }

  /**
   * Gives a command to the guest of a side.
   * @throws {RomulusError} ERR_TIMEOUT_SERIAL, ERR_GUEST_COMMAND
   */
  async command(index: 0 | 1, text: string, withinMs?: number): Promise<readonly string[]> {
    return await this.#portsOf(index).ask.command(text, withinMs);
  }

  override async cutLink(): Promise<void> {
    if (this.#hosts === null) await super.cutLink();
    else await this.#hosts.cut('a', 'repl');
  }

  override async mendLink(): Promise<void> {
    if (this.#hosts === null) await super.mendLink();
    else await this.#hosts.mend('a', 'repl');
  }

  override async cutUplink(index: 0 | 1): Promise<void> {
    await (this.#hosts?.cut(hostNamed(index), 'lan') ?? super.cutUplink(index));
  }

  override async mendUplink(index: 0 | 1): Promise<void> {
    await (this.#hosts?.mend(hostNamed(index), 'lan') ?? super.mendUplink(index));
  }

  override closeNow(): void {
    super.closeNow();
    this.#hosts?.removeNow();
  }

  override async close(options: { readonly keepFiles: boolean }): Promise<void> {
    if (options.keepFiles) this.#writeConsoles();
    await super.close(options);
    for (const { console, control } of this.#ports) {
      await console.close();
      await control.close();
    }
    await this.#hosts?.remove();
    // Engines that were killed while they learnt from a machine have no guardian yet.
    releaseAbandoned();
  }

  protected override hostOf(index: 0 | 1): string {
    return this.surroundings.addressOf(index) ?? super.hostOf(index);
  }

  protected override needsCables(): boolean {
    return this.#hosts === null;
  }

  protected override launcherOf(index: 0 | 1): readonly string[] {
    return this.surroundings.launcherOf(index);
  }

  protected override machineArgs(index: 0 | 1): readonly string[] {
    const mapping = this.stage.path(`map-${NAMES[index]}.json`);
    writeFileSync(mapping, JSON.stringify(this.#mapping(index)));
    return [
      ...(index === 0 ? ['--qmp', this.qmpSocket] : []),
      '--qemu',
      this.#parts.binaries[index],
      '--map',
      mapping,
    ];
  }

  /** Each side has serial ports of its own: a copy started there is heard there. */
  #mapping(index: 0 | 1): object {
    const { console, control } = this.#portsOf(index);
    const backend = (port: SerialLine): string => `socket,path=${port.path},server=off`;
    return {
      chardevs: { [CONSOLE_ID]: backend(console), [CONTROL_ID]: backend(control) },
      ...this.surroundings.mappingOf(index),
    };
  }

  async #listen(): Promise<void> {
    this.#ports = await Promise.all(
      NAMES.map(async (name) => {
        const console = await SerialLine.listen(this.stage.path(`console-${name}.sock`));
        const control = await SerialLine.listen(this.stage.path(`control-${name}.sock`));
        return { console, control, ask: new ControlLine(control) };
      }),
    );
  }

  #portsOf(index: 0 | 1): Ports {
    const ports = this.#ports[index];
    if (ports === undefined) throw new RangeError('nobody listens to the consoles yet');
    return ports;
  }

  /** Evidence of a drill that failed. */
  #writeConsoles(): void {
    for (const [index, { console }] of this.#ports.entries()) {
      const text = console.lines.map(({ atNs, text: line }) => `${atNs} ${line}\n`).join('');
      writeFileSync(this.stage.path(`console-${NAMES[index] ?? index}.txt`), text);
    }
  }
}
