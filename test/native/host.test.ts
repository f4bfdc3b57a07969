/** Host facts are consistent with what the system says of itself. */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { availableParallelism, release, totalmem } from 'node:os';
import { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { boostMain, hostFacts, learnPool, monotonicNs } from '../../src/native/host.ts';

const ADDON = new URL('../../native-sim/build/Release/romulus_native.node', import.meta.url);

test('facts', () => {
  const facts = hostFacts();
  expect(facts.kernelRelease).toBe(release());
  expect(facts.cores).toBe(availableParallelism());
  expect(facts.memoryBytes).toBeGreaterThanOrEqual(totalmem());
  expect(['scalar', 'avx2', 'avx512']).toContain(facts.simd);
  expect(facts.yamaScope).toBeGreaterThanOrEqual(-1);
});

test('the clock is the one that Node uses, and never runs back', () => {
  const before = process.hrtime.bigint();
  const between = monotonicNs();
  const after = process.hrtime.bigint();
  expect(between).toBeGreaterThanOrEqual(before);
  expect(between).toBeLessThanOrEqual(after);
});

test('a boost says what it did, and stays in its thread', async () => {
  const worker = new Worker(
    `const { parentPort, workerData } = require('node:worker_threads');
     parentPort.postMessage(require(workerData).boostThread());`,
    { eval: true, workerData: ADDON.pathname },
  );
  const done = await new Promise<string>((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  await worker.terminate();
  expect(['rr', 'nice', 'none']).toContain(done);
});

test('an eased thread is an ordinary one of the best niceness', async () => {
  const worker = new Worker(
    `const { parentPort, workerData } = require('node:worker_threads');
     const { readFileSync } = require('node:fs');
     const native = require(workerData);
     const look = () => {
       const stat = readFileSync('/proc/thread-self/stat', 'utf8');
       const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
       return { nice: Number(fields[16]), policy: Number(fields[38]) };
     };
     const priority = native.boostThread();
     const before = look();
     parentPort.postMessage({ priority, before, isEased: native.easeThread(), after: look() });`,
    { eval: true, workerData: ADDON.pathname },
  );
  const done = await new Promise<{
    priority: string;
    before: object;
    isEased: boolean;
    after: object;
  }>((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  await worker.terminate();
  expect(done.after).toEqual(done.isEased ? { nice: -20, policy: 0 } : done.before);
});

/** Scheduling policy of every thread of this process, in order of age: field 41 of its stat. */
function policies(): number[] {
  return readdirSync('/proc/self/task').map((thread) => {
    const stat = readFileSync(`/proc/self/task/${thread}/stat`, 'utf8');
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[38]);
  });
}

test('the main thread is boosted and put back', () => {
  const [before] = policies();
  const isAllowed = boostMain(true);
  expect(policies()[0]).toBe(isAllowed ? 2 : before);
  expect(boostMain(false)).toBe(true);
  expect(policies()[0]).toBe(0);
});

test('the pool for file operations is boosted with the main thread, and put back', async () => {
  const POOL_THREADS = Number(process.env['UV_THREADPOOL_SIZE'] ?? 4);
  learnPool();
  // Waits for the pool itself, hence for what was asked of it before.
  for (let waits = 0; learnPool() < POOL_THREADS; waits += 1) {
    if (waits > 100) throw new Error('the pool was not found');
    await stat('/proc/self');
  }
  const boostedCount = (): number => policies().filter((policy) => policy === 2).length;
  const before = boostedCount();
  const isAllowed = boostMain(true);
  expect(boostedCount() - before).toBe(isAllowed ? POOL_THREADS + 1 : 0);
  boostMain(false);
  expect(boostedCount()).toBe(before);
});

/**
 * A thread isolates itself while the main thread has a blocking pipe open that came after
 * `learnPipes`, as it has while it starts a child; here it is one between two others. Says which pipes the
 * thread then still has.
 */
const ISOLATE_BESIDE_A_PIPE = `
  const { Worker } = require('node:worker_threads');
  const { openSync } = require('node:fs');
  const addon = process.argv[1];
  require(addon).learnPipes();
  const pipe = openSync('/proc/' + process.argv[2] + '/fd/0', 'r');
  const worker = new Worker(\`
    const { parentPort, workerData } = require('node:worker_threads');
    const { readdirSync, readlinkSync } = require('node:fs');
    require(workerData).isolateDescriptors();
    const has = (fd) => { try { return readlinkSync('/proc/thread-self/fd/' + fd); } catch { return ''; } };
    parentPort.postMessage(readdirSync('/proc/thread-self/fd').filter((fd) => has(fd).startsWith('pipe:')).map(Number));
  \`, { eval: true, workerData: addon });
  worker.on('message', (pipes) => console.log(JSON.stringify({ pipe, pipes })));`;

test('an isolated thread keeps no pipe that another waits at for a child to start', () => {
  const shell = `set -m; sleep 30 | sleep 30 & "$0" -e "$1" "$2" $!; code=$?; kill %1; exit $code`;
  const said = execFileSync(
    'bash',
    ['-c', shell, process.execPath, ISOLATE_BESIDE_A_PIPE, ADDON.pathname],
    { encoding: 'utf8' },
  );
  const { pipe, pipes } = JSON.parse(said) as { pipe: number; pipes: number[] };
  expect(pipes).not.toContain(pipe);
  // By these a signal that comes to the thread is handed on.
  expect(pipes.length).toBeGreaterThan(2);
});
