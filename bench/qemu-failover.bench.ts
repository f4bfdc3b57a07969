/**
 * How long a failover of a real QEMU takes, in drills of the real command line: a small Linux, then one
 * with a disk and a card on two hosts of namespaces, where clients outside judge what came of it: one
 * TCP connection, redis, the disk's own checker.
 *
 * What the command calls `detectMs` lasts until the backup may take over: until the verdict, and until
 * what it promised itself has run out, which is `waitedMs`. `promoteMs` begins there and ends with the
 * running machine.
 */
import type { Kill } from '../src/drill/options.ts';
import type { DrillResult } from '../src/drill/result.ts';
import {
  allPassed,
  atMostMs,
  complaintsOf,
  passedCount,
  runDrills,
  spreadRow,
  total,
} from './lib/drills.ts';
import {
  type BenchResult,
  type Claim,
  numberOf,
  percentile,
  type Row,
  rounded,
} from './lib/result.ts';

/** A drill takes a quarter of that; the first may have to fetch and build its guest. */
const WAIT_MS_PER_DRILL = 120_000;
const PROMOTE_P50_MS_MAX = { bare: 8, whole: 20 } as const;
const PROMOTE_P99_MS_MAX = 50;
const RUNNING_P99_MS_MAX = 150;
const GAP_P50_MS_MAX = 250;
const GAP_P99_MS_MAX = 600;
/** Strikes that end a process, in words of the command. */
const DEADLY: ReadonlySet<Kill> = new Set(['sigkill', 'guest', 'engine']);
/** Of the machine with disk and card. */
const KINDS: readonly Kill[] = ['sigkill', 'sigstop', 'guest', 'engine', 'link'];

type Machine = keyof typeof PROMOTE_P50_MS_MAX;

const MACHINES: Readonly<Record<Machine, { readonly text: string; readonly words: string[] }>> = {
  bare: { text: 'no disk, no card', words: ['--guest', 'qemu'] },
  whole: { text: 'disk and card', words: ['--guest', 'qemu', '--disk', '--net'] },
};

export interface QemuFailoverOptions {
  /** Drills of each kind. */
  readonly times?: number;
  /** Strikes at the machine with disk and card. */
  readonly kinds?: readonly Kill[];
}

function sum(left: number | null, right: number | null): number | null {
  return left === null || right === null ? null : left + right;
}

function rowOf(
  machine: Machine,
  kill: Kill,
  { asked, results }: { readonly asked: number; readonly results: readonly DrillResult[] },
): Row {
  const whole = {
    ...spreadRow('clientGap', results, ({ clientGapMs }) => clientGapMs),
    tcpSurvived: results.filter(({ tcpSurvived }) => tcpSurvived === true).length,
    ackedWritesLost: total(results, ({ ackedWritesLost }) => ackedWritesLost),
    diskBad: total(results, ({ diskBad }) => diskBad),
  };
  return {
    machine: MACHINES[machine].text,
    kill,
    drills: asked,
    ok: passedCount(results),
    ...spreadRow('detect', results, ({ detectMs }) => detectMs),
    ...spreadRow('waited', results, ({ waitedMs }) => waitedMs),
    ...spreadRow('promote', results, ({ promoteMs }) => promoteMs),
    ...spreadRow('verdictToRunning', results, ({ waitedMs, promoteMs }) =>
      sum(waitedMs, promoteMs),
    ),
    ...spreadRow('strikeToRunning', results, ({ detectMs, promoteMs }) => sum(detectMs, promoteMs)),
    ...spreadRow('rto', results, ({ rtoMs }) => rtoMs),
    ...(machine === 'whole' && whole),
    outputsHeard: total(results, ({ outputsReleased }) => outputsReleased),
    outputsLost: total(results, ({ outputsLost }) => outputsLost),
    falseStarts: total(results, ({ falseStarts }) => falseStarts),
    pauseP50Ms: rounded(
      percentile(
        results.map(({ pauseMs }) => pauseMs.p50),
        0.5,
      ),
    ),
  };
}

function claimsOf(machine: Machine, kill: Kill, row: Row): Claim[] {
  const name = `QEMU, ${MACHINES[machine].text}, ${kill}`;
  const asked = numberOf(row, 'drills');
  const none = (what: string, key: string): Claim => ({
    what: `${name}: ${what}`,
    measured: numberOf(row, key),
    relation: 'at most',
    bound: 0,
    unit: '',
  });
  const promote = [
    atMostMs(`${name}: promoteMs p50`, row, 'promoteP50Ms', PROMOTE_P50_MS_MAX[machine]),
    atMostMs(`${name}: promoteMs p99`, row, 'promoteP99Ms', PROMOTE_P99_MS_MAX),
  ];
  const running = atMostMs(
    `${name}: from the kill to the running machine, p99`,
    row,
    'strikeToRunningP99Ms',
    RUNNING_P99_MS_MAX,
  );
  const gap = [
    atMostMs(`${name}: silence at a client, p50`, row, 'clientGapP50Ms', GAP_P50_MS_MAX),
    atMostMs(`${name}: silence at a client, p99`, row, 'clientGapP99Ms', GAP_P99_MS_MAX),
  ];
  return [
    allPassed(name, row, asked),
    // Whichever side is heard after a cut is right.
    ...(kill === 'link' ? [] : promote),
    ...(DEADLY.has(kill) ? [running] : []),
    ...(machine === 'whole' && kill === 'sigkill' ? gap : []),
    none('outputs lost', 'outputsLost'),
    ...(machine === 'whole'
      ? [
          none('acknowledged writes lost', 'ackedWritesLost'),
          none('blocks of the disk torn, old or early', 'diskBad'),
        ]
      : []),
  ];
}

/** A machine without disk and card that is killed, then every kind of strike at one with disk and card, for root. */
export async function run(options: QemuFailoverOptions = {}): Promise<BenchResult> {
  const { times = 10, kinds = KINDS } = options;
  const isRoot = process.getuid?.() === 0;
  const rows: Row[] = [];
  const claims: Claim[] = [];
  const notes = [
    '25 ms epochs, heartbeats every 10 ms, promises of 40 ms; both hosts, switch and clients are on the same processors',
    'detect: from the strike until the backup may take over, that is until its verdict and until what it promised has run out (waited is that part); promote: from then to the running machine; verdictToRunning: waited and promote; strikeToRunning: detect and promote',
    'rto: from the strike to the first line of the new copy on its console; clientGap: the longest time from the strike on without an answer to a client that asks over one TCP connection',
    'with fewer than a hundred drills the 99th percentile is the worst of them',
    ...(isRoot || kinds.length === 0
      ? []
      : ['disk and card were left out: their hosts are namespaces, which only root can make']),
  ];
  const strikes: (readonly [Machine, Kill])[] = [
    ['bare', 'sigkill'],
    ...(isRoot ? kinds.map((kind) => ['whole', kind] as const) : []),
  ];
  for (const [machine, kill] of strikes) {
    const { text, words } = MACHINES[machine];
    process.stdout.write(`  ${text}, ${kill}\n`);
    const drills = await runDrills({
      words: [...words, '--kill', kill],
      times,
      waitMsPerDrill: WAIT_MS_PER_DRILL,
    });
    const row = rowOf(machine, kill, { asked: times, results: drills.results });
    rows.push(row);
    claims.push(...claimsOf(machine, kill, row));
    notes.push(...complaintsOf(`${text}, ${kill}`, times, drills));
  }
  return { name: 'qemu-failover', rows, claims, notes };
}
