/** The verdict on a machine's disk and on what its clients were answered. Pure. */
import type { Check } from '../checks.ts';
import type { ClientsOutcome } from '../clients/clients-process.ts';
import type { LoadedRedis } from './redis-load.ts';

/** How the disk was found, once nobody wrote any more. */
export interface DiskEvidence {
  /** What the guest's `disk` program found: `ok ...`, or `BAD 1 bad 0 stale 2 early`. */
  readonly blocks: string;
  /** Why the file system did not let go; null when it did. */
  readonly unmounted: string | null;
  readonly guestDigest: string;
  readonly fileDigest: string;
  /** Of the other side's file, where that side followed. */
  readonly replicaDigest: string | null;
  /** What e2fsck complained about. */
  readonly faults: string | null;
  readonly loaded: LoadedRedis | null;
}

/** What the clients were answered; nothing without a card. */
export interface ClientsEvidence {
  readonly clients: ClientsOutcome | null;
  /** How redis-benchmark ended, if it did: it should have gone on. */
  readonly benchmarkEnd: string | null;
}

/** All that is looked at here. */
export interface ServicesEvidence extends ClientsEvidence {
  readonly disk: DiskEvidence | null;
}

/** The figures that a drill with a disk or a card adds to its result; null without the part. */
export interface ServicesFigures {
  readonly tcpSurvived: boolean | null;
  readonly ackedWritesLost: number | null;
  readonly diskBad: number | null;
  /** The longest time from the strike on for which the echo client had no answer. */
  readonly clientGapMs: number | null;
}

/** What a drill without either says. */
export const NO_SERVICES: ServicesFigures = {
  tcpSurvived: null,
  ackedWritesLost: null,
  diskBad: null,
  clientGapMs: null,
};

const COUNTS = /^BAD (\d+) bad (\d+) stale (\d+) early$/;

/** Blocks that are not what the guest last wrote; at least one when it could not tell. */
function badBlocks(blocks: string): number {
  if (blocks.startsWith('ok ')) return 0;
  const [, ...counts] = COUNTS.exec(blocks) ?? [];
  return Math.max(
    1,
    counts.reduce((sum, count) => sum + Number(count), 0),
  );
}

/** Acknowledged INCRs that redis lacks when it is started anew on its file. */
function lostOnDisk(clients: ClientsOutcome, loaded: LoadedRedis): number {
  let lost = 0;
  for (const [key, acknowledged] of Object.entries(clients.redis.counters))
    lost += Math.max(0, acknowledged - (loaded.counters[key] ?? 0));
  return lost;
}

function lostWrites({ clients, disk }: ServicesEvidence): number | null {
  if (clients === null) return null;
  const { incrementsLost, incrementsAcknowledged } = clients.redis;
  const fromDisk =
    disk?.loaded === undefined || disk.loaded === null ? 0 : lostOnDisk(clients, disk.loaded);
  // Nobody could be asked: all may be lost.
  return Math.max(incrementsLost ?? incrementsAcknowledged, fromDisk);
}

/** The figures of a drill. */
export function servicesFigures(evidence: ServicesEvidence): ServicesFigures {
  const { clients, disk } = evidence;
  return {
    tcpSurvived: clients === null ? null : clients.echo.complaint === null && isAnswered(clients),
    ackedWritesLost: lostWrites(evidence),
    diskBad: disk === null ? null : badBlocks(disk.blocks),
    clientGapMs: clients?.echo.gapMs ?? null,
  };
}

function isAnswered({ echo }: ClientsOutcome): boolean {
  return echo.answered > 0 && echo.answered === echo.sent;
}

/** Everything that the evidence can settle. */
export function judgeServices(evidence: ServicesEvidence): Check[] {
  const { clients, disk, benchmarkEnd } = evidence;
  const checks: Check[] = [];
  if (clients !== null)
    checks.push(checkConnection(clients), checkPing(clients), checkWrites(evidence), {
      name: 'redis-benchmark',
      ok: benchmarkEnd === null,
      text:
        benchmarkEnd === null ? 'went on all the time' : `ended before its time: ${benchmarkEnd}`,
    });
  if (disk !== null) checks.push(checkBlocks(disk), checkFiles(disk));
  return checks;
}

/** The echo client's one connection went on, with every answer in its place. */
function checkConnection(clients: ClientsOutcome): Check {
  const { sent, answered, complaint, gapMs, rttMs } = clients.echo;
  const ok = complaint === null && isAnswered(clients);
  return {
    name: 'TCP connection',
    ok,
    text: ok
      ? `${answered} numbers answered in order over one connection, ${gapMs.toFixed(0)} ms without an answer at most, round trip ${rttMs.p50.toFixed(1)} ms`
      : `${complaint ?? 'answers stayed out'}: ${answered} of ${sent} numbers were answered`,
  };
}

/** A ping is answered again after whatever struck. */
function checkPing({ ping, echo }: ClientsOutcome): Check {
  return {
    name: 'ping',
    ok: ping.answered > 0,
    text:
      ping.answered > 0
        ? `${ping.answered} answers, ${ping.gapMs.toFixed(0)} ms without one at most, round trip ${ping.rttMs.p50.toFixed(1)} ms`
        : `no answer at all (the echo server gave ${echo.answered})`,
  };
}

/** Every INCR that was acknowledged is there, each done once; also when redis starts anew. */
function checkWrites(evidence: ServicesEvidence): Check {
  const lost = lostWrites(evidence) ?? 0;
  const redis = evidence.clients?.redis;
  const acknowledged = redis?.incrementsAcknowledged ?? 0;
  const [complaint = evidence.disk?.loaded?.complaint ?? null] = redis?.complaints ?? [];
  const ok = lost === 0 && complaint === null && acknowledged > 0;
  return {
    name: 'acknowledged writes',
    ok,
    text: ok
      ? `redis holds all ${acknowledged} acknowledged INCRs${evidence.disk === null ? '' : ', and again when started on its file'}`
      : `${lost} of ${acknowledged} acknowledged INCRs lost${complaint === null ? '' : `: ${complaint}`}`,
  };
}

/** No block on the disk is torn, older or newer than the guest knows. */
function checkBlocks({ blocks }: DiskEvidence): Check {
  return { name: 'disk blocks', ok: badBlocks(blocks) === 0, text: blocks };
}

/** The file is what the guest reads, the replica is what the file is, and the file system is whole. */
function checkFiles(disk: DiskEvidence): Check {
  const { unmounted, guestDigest, fileDigest, replicaDigest, faults } = disk;
  const wrong: string[] = [];
  if (unmounted !== null) wrong.push(`the file system cannot be unmounted: ${unmounted}`);
  if (guestDigest !== fileDigest)
    wrong.push(`the guest reads ${guestDigest}, the file is ${fileDigest}`);
  if (replicaDigest !== null && replicaDigest !== fileDigest)
    wrong.push(`the replica is ${replicaDigest}, the file is ${fileDigest}`);
  if (faults !== null) wrong.push(`e2fsck: ${faults}`);
  const alike = replicaDigest === null ? 'the file is' : 'file and replica are';
  return {
    name: 'disk file',
    ok: wrong.length === 0,
    text:
      wrong.length === 0
        ? `${alike} what the guest reads; e2fsck finds no fault`
        : wrong.join('; '),
  };
}
