/** Goal: no loss and no bad block gets past the verdict. Method: evidence with one thing wrong each. */
import { describe, expect, it } from 'vitest';
import {
  type DiskEvidence,
  judgeServices,
  type ServicesEvidence,
  servicesFigures,
} from '../../../src/drill/qemu/services-checks.ts';

const CLIENTS = {
  echo: { sent: 100, answered: 100, complaint: null, rttMs: { p50: 1, p99: 2 }, gapMs: 90 },
  ping: { answered: 50, rttMs: { p50: 1, p99: 2 }, gapMs: 80 },
  redis: {
    commandsSent: 20,
    commandsAnswered: 20,
    incrementsAcknowledged: 12,
    incrementsLost: 0,
    counters: { one: 7, two: 5 },
    complaints: [],
  },
};
const DISK: DiskEvidence = {
  blocks: 'ok 1024 blocks 300 writes',
  unmounted: null,
  guestDigest: 'd1',
  fileDigest: 'd1',
  replicaDigest: null,
  faults: null,
  loaded: { complaint: null, counters: { one: 7, two: 6 } },
};
const GOOD: ServicesEvidence = { clients: CLIENTS, benchmarkEnd: null, disk: DISK };

function broken(evidence: ServicesEvidence): string[] {
  return judgeServices(evidence)
    .filter(({ ok }) => !ok)
    .map(({ name }) => name);
}

describe('the verdict', () => {
  it('is good when nothing is wrong', () => {
    expect(broken(GOOD)).toEqual([]);
    expect(servicesFigures(GOOD)).toEqual({
      tcpSurvived: true,
      ackedWritesLost: 0,
      diskBad: 0,
      clientGapMs: 90,
    });
  });

  it('says nothing of parts that are not there', () => {
    const none = { clients: null, benchmarkEnd: null, disk: null };
    expect(judgeServices(none)).toEqual([]);
    expect(Object.values(servicesFigures(none))).toEqual([null, null, null, null]);
  });

  const { redis, echo } = CLIENTS;
  it.each<[string, Partial<ServicesEvidence>, string]>([
    [
      'a write that redis lost',
      { clients: { ...CLIENTS, redis: { ...redis, incrementsLost: 1 } } },
      'acknowledged writes',
    ],
    [
      'a write that its file lost',
      { disk: { ...DISK, loaded: { complaint: null, counters: { one: 7, two: 4 } } } },
      'acknowledged writes',
    ],
    [
      'a file that redis does not take',
      { disk: { ...DISK, loaded: { complaint: 'no', counters: redis.counters } } },
      'acknowledged writes',
    ],
    [
      'a redis that cannot be asked',
      { clients: { ...CLIENTS, redis: { ...redis, incrementsLost: null } } },
      'acknowledged writes',
    ],
    [
      'a connection that broke',
      { clients: { ...CLIENTS, echo: { ...echo, complaint: 'the connection broke' } } },
      'TCP connection',
    ],
    [
      'answers that stay out',
      { clients: { ...CLIENTS, echo: { ...echo, answered: 99 } } },
      'TCP connection',
    ],
    ['a benchmark that gave up', { benchmarkEnd: 'exit code 1' }, 'redis-benchmark'],
    ['a stale block', { disk: { ...DISK, blocks: 'BAD 0 bad 1 stale 0 early' } }, 'disk blocks'],
    ['a guest that says nothing', { disk: { ...DISK, blocks: 'no answer' } }, 'disk blocks'],
    ['a file of other content', { disk: { ...DISK, fileDigest: 'd2' } }, 'disk file'],
    ['a replica of other content', { disk: { ...DISK, replicaDigest: 'd2' } }, 'disk file'],
    ['a faulty file system', { disk: { ...DISK, faults: 'bad' } }, 'disk file'],
  ])('tells of %s', (_what, wrong, check) => {
    expect(broken({ ...GOOD, ...wrong })).toEqual([check]);
  });

  it('counts bad, stale and early blocks alike', () => {
    const disk = { ...DISK, blocks: 'BAD 1 bad 2 stale 3 early' };
    expect(servicesFigures({ ...GOOD, disk }).diskBad).toBe(6);
  });
});
