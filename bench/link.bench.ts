/**
 * How fast frames of 1 MiB go from one process to another over a WebSocket link, each checked by
 * its CRC, beside a plain loopback TCP copy of the same bytes. Kinds alternate in short samples
 * within one run, so that the host's noise meets them all; noise only ever adds time, so the fastest
 * sample of each kind is compared, and the median stated beside it. The receiver is what limits the
 * rate: its processor time per gigabyte is stated too.
 *
 * Run with `npx tsx bench/link.bench.ts [rounds]`; prints one JSON object.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { fileURLToPath, pathToFileURL } from 'node:url';
import fastCrc32c from 'fast-crc32c';
import { MIB, NO_GENERATION } from '../src/base/units.ts';
import { crc32c, useCrc32c } from '../src/codec/checksum.ts';
import { encodeMessage } from '../src/codec/messages.ts';
import type { Link } from '../src/links/link.ts';
import { dialWs, listenWs } from '../src/links/ws.ts';
import { useNativeCrc32c } from '../src/native/native-crc32c.ts';
import { type BenchResult, percentile, rounded } from './lib/result.ts';

const HOST = '127.0.0.1';
const PAYLOAD_BYTES = MIB;
/** In one sample. */
const PAYLOADS = 64;
const TOTAL_BYTES = PAYLOADS * PAYLOAD_BYTES;
/** Different payloads, so that they do not all lie in a cache. */
const DISTINCT = 64;

const KINDS = [
  'tcp',
  'crc-known',
  'crc-computed',
  'crc-known-package',
  'crc-computed-package',
] as const;
type Kind = (typeof KINDS)[number];

const TITLES: Readonly<Record<Kind, string>> = {
  tcp: 'plain TCP copy, nothing checked',
  'crc-known': 'frames over ws; CRC known to the sender, checked by the receiver',
  'crc-computed': 'frames over ws; CRC computed by the sender, checked by the receiver',
  'crc-known-package': 'as crc-known, with fast-crc32c in place of the native CRC',
  'crc-computed-package': 'as crc-computed, with fast-crc32c in place of the native CRC',
};

interface ReceiverReport {
  readonly cpuSeconds: number;
}

interface Sample {
  readonly seconds: number;
  readonly sendCpuSeconds: number;
  readonly receiveCpuSeconds: number;
}

/** Which CRC the frames of this kind are checked with, on this side. */
function useCrcOf(kind: Kind): void {
  const agrees = kind.endsWith('package')
    ? useCrc32c((data, initial = 0) => fastCrc32c.calculate(data, initial))
    : useNativeCrc32c();
  if (!agrees) throw new Error('the native part is missing: npm run build:native');
}

function cpuSecondsSince(start: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(start);
  return (user + system) / 1e6;
}

// The receiving process.

async function receive(kind: Kind, port: number): Promise<void> {
  let start: NodeJS.CpuUsage | undefined;
  let bytes = 0;
  const count = (received: number): void => {
    start ??= process.cpuUsage();
    bytes += received;
    if (bytes < TOTAL_BYTES) return;
    process.send?.({ cpuSeconds: cpuSecondsSince(start) } satisfies ReceiverReport);
    start = undefined;
    bytes = 0;
  };
  process.on('disconnect', () => process.exit());
  if (kind === 'tcp') {
    connect(port, HOST).on('data', (chunk) => count(chunk.byteLength));
    return;
  }
  useCrcOf(kind);
  const link = await dialWs({ url: `ws://${HOST}:${port}` });
  link.onMessage((frame) => count(frame.payload.byteLength));
}

// The sending process.

function payloads(): { batch: Uint8Array; crc: number }[] {
  return Array.from({ length: DISTINCT }, (_, seed) => {
    const batch = Buffer.allocUnsafeSlow(PAYLOAD_BYTES);
    for (let at = 0; at < PAYLOAD_BYTES; at += 4) {
      batch.writeUInt32LE(Math.imul(at + seed, 0x9e37_79b1) >>> 0, at);
    }
    batch.writeUInt32LE(256, 0);
    return { batch, crc: crc32c(batch) };
  });
}

const PAYLOAD_LIST = payloads();

function payloadAt(index: number): { batch: Uint8Array; crc: number } {
  const payload = PAYLOAD_LIST[index % DISTINCT];
  if (payload === undefined) throw new Error('no payload');
  return payload;
}

/** A connection to a receiving process, used for many samples. */
interface Session {
  /** Sends all payloads once, as fast as the other side takes them. */
  readonly sendAll: () => void;
  readonly child: ChildProcess;
  readonly close: () => Promise<void>;
}

function startReceiver(kind: Kind, port: number): ChildProcess {
  return fork(fileURLToPath(import.meta.url), ['--receive', kind, String(port)]);
}

async function stopReceiver(child: ChildProcess): Promise<void> {
  const exited = once(child, 'exit');
  child.disconnect();
  await exited;
}

async function openTcp(): Promise<Session> {
  const server = createServer({ noDelay: true });
  server.listen(0, HOST);
  await once(server, 'listening');
  const accepted = once(server, 'connection');
  const child = startReceiver('tcp', (server.address() as AddressInfo).port);
  const [socket] = (await accepted) as [Socket];
  let sent = 0;
  const pump = (): void => {
    while (sent < PAYLOADS && socket.write(payloadAt(sent++).batch));
  };
  socket.on('drain', pump);
  return {
    child,
    sendAll: () => {
      sent = 0;
      pump();
    },
    close: async () => {
      socket.on('error', () => socket.destroy());
      await stopReceiver(child);
      socket.destroy();
      server.close();
    },
  };
}

async function openWs(kind: Kind): Promise<Session> {
  let takeLink: (link: Link) => void = () => undefined;
  const accepted = new Promise<Link>((resolve) => {
    takeLink = resolve;
  });
  const listener = await listenWs({ host: HOST, port: 0, onLink: takeLink });
  const child = startReceiver(kind, listener.port);
  const link = await accepted;
  link.onMessage(() => undefined);
  let sent = PAYLOADS;
  const pump = (): void => {
    for (let hasRoom = true; hasRoom && sent < PAYLOADS; sent += 1) {
      const { batch, crc: known } = payloadAt(sent);
      const payloadCrc = kind.startsWith('crc-known') ? known : crc32c(batch);
      const message = { kind: 'baseImage', batch } as const;
      hasRoom = link.send(encodeMessage(message, { generation: NO_GENERATION, payloadCrc }));
    }
  };
  link.onDrain(pump);
  return {
    child,
    sendAll: () => {
      useCrcOf(kind);
      sent = 0;
      pump();
    },
    close: async () => {
      await stopReceiver(child);
      await listener.close();
    },
  };
}

async function measure({ child, sendAll }: Session): Promise<Sample> {
  const report = once(child, 'message');
  const begin = { atMs: performance.now(), cpu: process.cpuUsage() };
  sendAll();
  const [{ cpuSeconds }] = (await report) as [ReceiverReport];
  return {
    seconds: (performance.now() - begin.atMs) / 1000,
    sendCpuSeconds: cpuSecondsSince(begin.cpu),
    receiveCpuSeconds: cpuSeconds,
  };
}

/** Bytes a second of a plain copy to another process, nothing checked, over so many bytes. */
export async function plainCopyRate(bytes: number): Promise<number> {
  const session = await openTcp();
  try {
    await measure(session);
    let seconds = 0;
    const samples = Math.max(1, Math.round(bytes / TOTAL_BYTES));
    for (let sample = 0; sample < samples; sample += 1) seconds += (await measure(session)).seconds;
    return (samples * TOTAL_BYTES) / seconds;
  } finally {
    await session.close();
  }
}

/** Runs all kinds in turn, `rounds` times. */
export async function run(options: { rounds?: number } = {}): Promise<BenchResult> {
  const sessions = new Map<Kind, Session>();
  const samples = new Map<Kind, Sample[]>(KINDS.map((kind) => [kind, []]));
  try {
    for (const kind of KINDS) {
      sessions.set(kind, kind === 'tcp' ? await openTcp() : await openWs(kind));
    }
    // The first two rounds let compilers and sockets' buffers find their size.
    for (let round = -2; round < (options.rounds ?? 60); round += 1) {
      for (const [kind, session] of sessions) {
        const sample = await measure(session);
        if (round >= 0) samples.get(kind)?.push(sample);
      }
    }
  } finally {
    for (const session of sessions.values()) await session.close();
  }
  const gigabytes = TOTAL_BYTES / 1e9;
  const quantile = (kind: Kind, share: number, value: (sample: Sample) => number): number =>
    percentile((samples.get(kind) ?? []).map(value), share);
  const rate = (kind: Kind, share: number): number =>
    gigabytes / quantile(kind, share, (sample) => sample.seconds);
  return {
    name: 'link',
    rows: KINDS.map((kind) => ({
      kind,
      title: TITLES[kind],
      bestGigabytesPerSecond: rounded(rate(kind, 0)),
      shareOfTcp: rounded(rate(kind, 0) / rate('tcp', 0)),
      medianGigabytesPerSecond: rounded(rate(kind, 0.5)),
      medianShareOfTcp: rounded(rate(kind, 0.5) / rate('tcp', 0.5)),
      sendCpuSecondsPerGigabyte: rounded(
        quantile(kind, 0, (sample) => sample.sendCpuSeconds) / gigabytes,
      ),
      receiveCpuSecondsPerGigabyte: rounded(
        quantile(kind, 0, (sample) => sample.receiveCpuSeconds) / gigabytes,
      ),
    })),
    notes: [
      `Two processes on loopback, ${PAYLOADS} payloads of 1 MiB a sample; processor time is the least.`,
      'The native CRC is what links use; the package is what they fall back to.',
    ],
  };
}

if (process.argv[2] === '--receive') {
  await receive(process.argv[3] as Kind, Number(process.argv[4]));
} else if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const rounds = process.argv[2] === undefined ? {} : { rounds: Number(process.argv[2]) };
  process.stdout.write(`${JSON.stringify(await run(rounds), null, 1)}\n`);
}
