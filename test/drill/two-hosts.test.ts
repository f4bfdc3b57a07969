/**
 * Goal: two hosts of namespaces reach each other and their clients over separate cables, and nothing of
 * them is left, not even of a drill that was killed. Method: the real thing, as root.
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { NODE_ADDRESSES, removeLeftovers, TwoHosts } from '../../src/drill/hosts/two-hosts.ts';
import { isProcessAlive } from '../../src/guests/process.ts';
import { requireHosts } from '../support/qemu/require-qemu.ts';

const MAKE_MS = 60_000;
/** The first through a new or mended cable may be lost, or be answered late. */
const SEVERAL_PINGS = 'ping -c 5 -i 0.3 -W 3';
const ONE_PING = 'ping -c 1 -W 1';
const available = await requireHosts();
const directory = mkdtempSync(join(tmpdir(), 'romulus-drill-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** Whether any of these pings is answered. */
function reaches(
  launcher: readonly string[],
  address: string,
  ping: string = SEVERAL_PINGS,
): boolean {
  const words = [...launcher, ...ping.split(' '), address];
  return spawnSync(words[0] ?? '', words.slice(1)).status === 0;
}

function namespacesOf(owner: string): string[] {
  return existsSync('/run/netns')
    ? readdirSync('/run/netns').filter((name) => name.startsWith(owner))
    : [];
}

describe.skipIf(!available)('two hosts', () => {
  it('are there, can be cut off, and go', { timeout: MAKE_MS }, async () => {
    const hosts = await TwoHosts.make(directory, () => undefined);
    try {
      expect(namespacesOf(basename(directory))).toHaveLength(4);
      expect(reaches(hosts.enter('a'), NODE_ADDRESSES.b)).toBe(true);
      expect(reaches(hosts.enter('client'), NODE_ADDRESSES.b, ONE_PING)).toBe(false);
      await hosts.cut('a', 'lan');
      expect(reaches(hosts.enter('b'), NODE_ADDRESSES.a)).toBe(true);
      await hosts.cut('a', 'repl');
      expect(reaches(hosts.enter('b'), NODE_ADDRESSES.a, ONE_PING)).toBe(false);
      await hosts.mend('a', 'repl');
      expect(reaches(hosts.enter('b'), NODE_ADDRESSES.a)).toBe(true);
    } finally {
      await hosts.remove();
    }
    await hosts.remove();
    expect(namespacesOf(basename(directory))).toEqual([]);
  });

  it('of a dead drill are removed, with who runs there', { timeout: MAKE_MS }, async () => {
    const left = mkdtempSync(join(tmpdir(), 'romulus-drill-'));
    mkdirSync(join(left, 'a'));
    // No process has this number and began then.
    const name = `${basename(left)}.${process.pid}.1.a`;
    spawnSync('ip', ['netns', 'add', name]);
    const inside = spawn('ip', ['netns', 'exec', name, 'sleep', '600'], { stdio: 'ignore' });
    const gone = new Promise((resolve) => inside.once('exit', resolve));
    const pids = (): string => spawnSync('ip', ['netns', 'pids', name]).stdout.toString().trim();
    while (pids() === '') await new Promise((resolve) => setTimeout(resolve, 10));
    await removeLeftovers();
    await gone;
    expect(isProcessAlive(inside.pid ?? 0)).toBe(false);
    expect(namespacesOf(name)).toEqual([]);
    expect(existsSync(left)).toBe(false);
  });
});
