/**
 * Goal: a real QEMU with a disk and a card survives whatever strikes: an open connection goes on, what
 * was acknowledged to a client is there, and the disk is what the guest knows. Method: the drill itself,
 * between two hosts of network namespaces, as root. A failure prints the seed and where the evidence is.
 */
import { existsSync, readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { requireServices } from '../support/qemu/require-qemu.ts';
import { drill, DRILL_WAIT_MS, drills, expectProof, type Finished } from '../support/run-drill.ts';

/** In a row, by one command, struck at random moments; with the eight kinds above, twenty. */
const SERIES = 12;
const available = await requireServices();

function namespaces(): string[] {
  return existsSync('/run/netns')
    ? readdirSync('/run/netns').filter((name) => name.startsWith('romulus-drill-'))
    : [];
}

const atStart = namespaces();

const WORDS = ['--guest', 'qemu', '--memory', '128M', '--disk', '--net'] as const;

async function prove(...words: string[]): Promise<Finished> {
  const finished = await drill(...WORDS, ...words);
  expectProof(finished);
  const { tcpSurvived, ackedWritesLost, diskBad } = finished.result;
  expect({ tcpSurvived, ackedWritesLost, diskBad }).toEqual({
    tcpSurvived: true,
    ackedWritesLost: 0,
    diskBad: 0,
  });
  expect(finished.result.incrementsAcknowledged).toBeGreaterThan(0);
  return finished;
}

describe.skipIf(!available)('romulus drill --guest qemu --disk --net', () => {
  it.each(['sigkill', 'sigstop', 'guest', 'engine'])(
    '%s: the copy goes on, and its clients with it',
    { timeout: DRILL_WAIT_MS },
    async (kill) => {
      const { result } = await prove('--kill', kill);
      expect(result.promotedEpoch).toBeGreaterThan(0);
    },
  );

  it('link: cut off from each other, one side serves the clients', {
    timeout: DRILL_WAIT_MS,
  }, async () => {
    await prove('--kill', 'link');
  });

  it('uplink: nobody takes over when only the clients are cut off', {
    timeout: DRILL_WAIT_MS,
  }, async () => {
    const { result } = await prove('--kill', 'uplink');
    expect(result.promotedEpoch).toBeNull();
  });

  it('backup: the clients notice nothing', { timeout: DRILL_WAIT_MS }, async () => {
    await prove('--kill', 'backup');
  });

  it('--rejoin: and back again, over the same connection', { timeout: DRILL_WAIT_MS }, async () => {
    const { result } = await prove('--rejoin');
    expect(result.story.join('\n')).toContain('the other way round');
  });

  it.each(['--disk', '--net'])('%s alone', { timeout: DRILL_WAIT_MS }, async (part) => {
    expectProof(await drill('--guest', 'qemu', '--memory', '128M', part));
  });

  it(`${SERIES} times in a row`, { timeout: SERIES * DRILL_WAIT_MS }, async () => {
    const { code, summary, complaints } = await drills(SERIES, ...WORDS);
    expect({ summary, complaints }).toMatchObject({
      summary: { runs: SERIES, passed: SERIES, ok: true, ackedWritesLost: 0, diskBad: 0 },
      complaints: '',
    });
    expect(code).toBe(0);
  });

  it('leaves no namespace behind', () => {
    expect(namespaces().filter((name) => !atStart.includes(name))).toEqual([]);
  });
});
