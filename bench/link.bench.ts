/**
 * How fast frames of 1 MiB go from one process to another over a WebSocket link, each checked by
 * its CRC, beside a plain loopback TCP copy of the same bytes. Kinds alternate within one run, so
 * that the host's noise meets them all. The receiver is what limits the rate: its processor time
 * per gigabyte is stated too.
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
const PAYLOADS = 1024;
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
  const count = (received: number, end: () => void): void => {
    start ??= process.cpuUsage();
    bytes += received;
    if (bytes < TOTAL_BYTES) return;
    process.send?.({ cpuSeconds: cpuSecondsSince(start) } satisfies ReceiverReport);
    end();
  };
  if (kind === 'tcp') {
    const socket = connect(port, HOST);
    socket.on('data', (chunk) => count(chunk.byteLength, () => socket.end()));
    return;
  }
  useCrcOf(kind);
  const link = await dialWs({ url: `ws://${HOST}:${port}` });
  link.onMessage((frame) => count(frame.payload.byteLength, () => link.close()));
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

interface Receiver {
  readonly child: ChildProcess;
  readonly report: Promise<ReceiverReport>;
}

function startReceiver(kind: Kind, port: number): Receiver {
  const child = fork(fileURLToPath(import.meta.url), ['--receive', kind, String(port)]);
  return { child, report: once(child, 'message').then(([message]) => message as ReceiverReport) };
}

async function measureTcp(): Promise<Sample> {
  const server = createServer({ noDelay: true });
  server.listen(0, HOST);
  await once(server, 'listening');
  const accepted = once(server, 'connection');
  const receiver = startReceiver('tcp', (server.address() as AddressInfo).port);
  const [socket] = (await accepted) as [Socket];
  const begin = { atMs: performance.now(), cpu: process.cpuUsage() };
  let sent = 0;
  const pump = (): void => {
    while (sent < PAYLOADS && socket.write(payloadAt(sent++).batch));
  };
  socket.on('drain', pump);
  pump();
  return finish(receiver, begin, () => {
    server.close();
  });
}

async function measureWs(kind: Kind): Promise<Sample> {
  useCrcOf(kind);
  let takeLink: (link: Link) => void = () => undefined;
  const accepted = new Promise<Link>((resolve) => {
    takeLink = resolve;
  });
  const listener = await listenWs({ host: HOST, port: 0, onLink: takeLink });
  const receiver = startReceiver(kind, listener.port);
  const link = await accepted;
  link.onMessage(() => undefined);
  const begin = { atMs: performance.now(), cpu: process.cpuUsage() };
  let sent = 0;
  const pump = (): void => {
    for (let hasRoom = true; hasRoom && sent < PAYLOADS; sent += 1) {
      const { batch, crc: known } = payloadAt(sent);
      const payloadCrc = kind.startsWith('crc-known') ? known : crc32c(batch);
      const message = { kind: 'baseImage', batch } as const;
      hasRoom = link.send(encodeMessage(message, { generation: NO_GENERATION, payloadCrc }));
    }
  };
  link.onDrain(pump);
  pump();
  return finish(receiver, begin, () => listener.close());
}

async function finish(
  { child, report }: Receiver,
  begin: { atMs: number; cpu: NodeJS.CpuUsage },
  close: () => unknown,
): Promise<Sample> {
  const exited = once(child, 'exit');
  const { cpuSeconds: receiveCpuSeconds } = await report;
  const sample = {
    seconds: (performance.now() - begin.atMs) / 1000,
    sendCpuSeconds: cpuSecondsSince(begin.cpu),
    receiveCpuSeconds,
  };
  await exited;
  await close();
  return sample;
}

/** Runs all kinds in turn, `rounds` times. */
export async function run(options: { rounds?: number } = {}): Promise<BenchResult> {
  const samples = new Map<Kind, Sample[]>(KINDS.map((kind) => [kind, []]));
  for (let round = 0; round < (options.rounds ?? 7); round += 1) {
    for (const kind of KINDS) {
      const sample = kind === 'tcp' ? await measureTcp() : await measureWs(kind);
      samples.get(kind)?.push(sample);
    }
  }
  const gigabytes = TOTAL_BYTES / 1e9;
  const median = (kind: Kind, value: (sample: Sample) => number): number =>
    percentile((samples.get(kind) ?? []).map(value), 0.5);
  const rate = (kind: Kind): number => gigabytes / median(kind, (sample) => sample.seconds);
  return {
    name: 'link',
    rows: KINDS.map((kind) => ({
      kind,
      title: TITLES[kind],
      gigabytesPerSecond: rounded(rate(kind)),
      shareOfTcp: rounded(rate(kind) / rate('tcp')),
      sendCpuSecondsPerGigabyte: rounded(median(kind, (s) => s.sendCpuSeconds) / gigabytes),
      receiveCpuSecondsPerGigabyte: rounded(median(kind, (s) => s.receiveCpuSeconds) / gigabytes),
    })),
    notes: [
      `Two processes on loopback, ${PAYLOADS} payloads of 1 MiB a sample, medians.`,
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
