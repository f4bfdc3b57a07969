/**
 * Prepares, on the backup, the QEMU that will become the machine: memory, process, monitor, and the
 * beginning of its incoming stream, so that a promotion costs the loading of the device state and
 * nothing else (docs/QEMU.md says what is done to it, and when).
 */
import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { RomulusError, toRomulusError } from '../../base/errors.ts';
import type { GuestDescriptor } from '../guest.ts';
import {
  type BackupBlock,
  type MainMemory,
  makeBackupMemory,
  reserveBackupMemory,
} from './incoming/backup-memory.ts';
import {
  BackupProcess,
  FIRST_INHERITED_DESCRIPTOR,
  STREAM_DESCRIPTOR,
} from './incoming/backup-process.ts';
import { IncomingQemu, startError } from './incoming/incoming-qemu.ts';
import type { Replica } from './incoming/replica-files.ts';
import { QmpClient } from './qmp/qmp-client.ts';
import { SECTION, STREAM_PAGE_BYTES } from './stream/format.ts';

/** How long a QEMU may take until its monitor answers, milliseconds. */
export const PREPARE_TIMEOUT_MS = 20_000;
const POLL_MS = 5;

/** What of a QEMU machine's profile is needed here; `profile/` checks the rest. */
const streamProfileSchema = z.object({
  configuration: z.base64(),
  ramBlocks: z.array(
    z.object({
      id: z.number().int().nonnegative(),
      // What fits a stream: a byte of length, printable ASCII.
      name: z.string().regex(/^[\x20-\x7e]{1,255}$/),
      usedBytes: z.number().int().positive().multipleOf(STREAM_PAGE_BYTES),
      small: z.boolean(),
    }),
  ),
});

/** Most bytes of small blocks together; what they hold is kept twice, and looked at a few times a second. */
export const SMALL_BLOCKS_BYTES_MAX = 512 * 1024 * 1024;

/** Builds QEMU's command line around what was made for it. */
export type CommandLineBuilder = (places: {
  readonly qmpPath: string;
  /** Path under which QEMU opens a main block's memory, by the block's name. */
  readonly ramPaths: ReadonlyMap<string, string>;
}) => { readonly command: string; readonly args: readonly string[] };

export interface PrepareIncomingQemuOptions {
  /** What the primary said of its machine. */
  readonly descriptor: GuestDescriptor;
  /** Where the monitor's socket goes. */
  readonly directory: string;
  readonly commandLine: CommandLineBuilder;
  /** The replicas of its disks; taken over on success. */
  readonly replicas?: readonly Replica[];
  /** A hugetlbfs or tmpfs for main RAM; without it, memory without any file. */
  readonly ramDirectory?: string;
  /** Without a directory: the size of a main block's huge pages, by its name; others have ordinary ones. */
  readonly hugePageBytes?: ReadonlyMap<string, number>;
}

/**
 * Starts a QEMU that waits to become the machine.
 * @throws {RomulusError} ERR_HOST_SPACE, ERR_GUEST_DESCRIPTOR, ERR_GUEST_START with QEMU's own words,
 *   ERR_TIMEOUT_GUEST_START, ERR_HOST_MEMORY_*.
 */
export async function prepareIncomingQemu(
  options: PrepareIncomingQemuOptions,
): Promise<IncomingQemu> {
  const { descriptor, directory } = options;
  const { configuration, smallSizes } = readDescriptor(descriptor);
  const qmpPath = join(directory, `qemu-${randomBytes(4).toString('hex')}.qmp`);
  const { ramDirectory, hugePageBytes } = options;
  const main: MainMemory = {
    isMain: ({ name }) => !smallSizes.has(name),
    ...(ramDirectory !== undefined && { directory: ramDirectory }),
    ...(hugePageBytes !== undefined && { hugePageBytes }),
  };
  const blocks = makeBackupMemory(descriptor.blocks, main);
  // While QEMU starts: it looks at no page before it is told to.
  const reserved = reserveBackupMemory(blocks, main);
  reserved.catch(() => undefined);
  let process: BackupProcess | null = null;
  let monitor: QmpClient | null = null;
  try {
    const mainBlocks = blocks.filter((block) => !smallSizes.has(block.name));
    const ramPaths = new Map(
      mainBlocks.map(({ name }, index) => [
        name,
        `/proc/self/fd/${FIRST_INHERITED_DESCRIPTOR + index}`,
      ]),
    );
    const { command, args } = options.commandLine({ qmpPath, ramPaths });
    process = await BackupProcess.start(
      command,
      withIncomingStream(args),
      mainBlocks.map(({ memory }) => memory.fd),
    );
    monitor = await connectMonitor(process, qmpPath);
    await reserved;
    const incoming = new IncomingQemu({
      process,
      monitor,
      blocks,
      smallBlocks: smallBlocksOf(blocks, smallSizes),
      configuration,
      controlPath: qmpPath,
      replicas: options.replicas ?? [],
      cleanUp: () => rm(qmpPath, { force: true }),
    });
    await incoming.begin();
    return incoming;
  } catch (error) {
    monitor?.close();
    await process?.kill();
    await rm(qmpPath, { force: true });
    // The room is free again only when nobody takes it any more. A QEMU that missed it says so less clearly.
    const cause = await reserved.then(
      () => error,
      (spaceError: unknown) => spaceError,
    );
    for (const { memory } of blocks) memory.close();
    throw cause;
  }
}

function readDescriptor(descriptor: GuestDescriptor): {
  configuration: Uint8Array;
  smallSizes: ReadonlyMap<string, number>;
} {
  const parsed = streamProfileSchema.safeParse(descriptor.profile);
  const refuse = (what: string): never => {
    throw new RomulusError('ERR_GUEST_DESCRIPTOR', `the machine's description ${what}`, {
      remedy: 'Run the same version of Romulus on both hosts.',
    });
  };
  if (descriptor.kind !== 'qemu' || parsed.data === undefined) return refuse('is not of a QEMU');
  const { configuration, ramBlocks } = parsed.data;
  const sizes = new Map(descriptor.blocks.map(({ name, bytes }) => [name, bytes]));
  const smallSizes = new Map<string, number>();
  const section = Buffer.from(configuration, 'base64');
  // Empty where the machine was told to send none.
  if (section.byteLength > 0 && section[0] !== SECTION.configuration) {
    return refuse('has a configuration that is none');
  }
  let smallBytes = 0;
  for (const { name, usedBytes, small } of ramBlocks) {
    const bytes = sizes.get(name);
    if (bytes === undefined || bytes < usedBytes) return refuse(`lacks RAM block ${name}`);
    if (!small) continue;
    if (smallSizes.has(name)) return refuse(`names RAM block ${name} twice`);
    smallSizes.set(name, usedBytes);
    smallBytes += usedBytes;
    if (smallBytes > SMALL_BLOCKS_BYTES_MAX) return refuse('has small blocks that are not small');
  }
  return { configuration: section, smallSizes };
}

function smallBlocksOf(
  blocks: readonly BackupBlock[],
  smallSizes: ReadonlyMap<string, number>,
): { name: string; usedBytes: number; fd: number }[] {
  return blocks.flatMap(({ name, memory }) => {
    const usedBytes = smallSizes.get(name);
    return usedBytes === undefined ? [] : [{ name, usedBytes, fd: memory.fd }];
  });
}

/** Whatever the command line says of where the machine comes from, it comes from our stream. */
function withIncomingStream(args: readonly string[]): string[] {
  const at = args.findIndex((arg) => arg === '-incoming' || arg === '--incoming');
  const others = at < 0 ? [...args] : args.toSpliced(at, 2);
  return [...others, '-incoming', `fd:${STREAM_DESCRIPTOR}`];
}

async function connectMonitor(process: BackupProcess, qmpPath: string): Promise<QmpClient> {
  const deadlineMs = performance.now() + PREPARE_TIMEOUT_MS;
  for (;;) {
    if (process.ended !== null) {
      throw startError(`it ended (${process.ended}): ${process.lastWords}`);
    }
    try {
      return await waitingMonitor(qmpPath, deadlineMs);
    } catch (error) {
      if (toRomulusError(error).code !== 'ERR_GUEST_UNREACHABLE' && process.ended === null) {
        throw error;
      }
      if (performance.now() > deadlineMs) {
        throw new RomulusError(
          'ERR_TIMEOUT_GUEST_START',
          `the backup's QEMU did not answer within ${PREPARE_TIMEOUT_MS} ms`,
          { remedy: 'Check that the host has CPU and memory to spare.', cause: error },
        );
      }
    }
    await sleep(POLL_MS);
  }
}

async function waitingMonitor(qmpPath: string, deadlineMs: number): Promise<QmpClient> {
  const monitor = await QmpClient.connect(qmpPath, {
    timeoutMs: Math.max(1, deadlineMs - performance.now()),
  });
  try {
    const status = z.object({ status: z.string() }).parse(await monitor.command('query-status'));
    if (status.status !== 'inmigrate') throw startError(`its status is ${status.status}`);
    return monitor;
  } catch (error) {
    monitor.close();
    throw error;
  }
}
