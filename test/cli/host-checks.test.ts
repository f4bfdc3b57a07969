/** Goal: doctor finds what this host has, and never complains without a way out. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { checkNode, examineHost } from '../../src/cli/host-checks.ts';
import { STRANGER_LIFE_S } from '../../src/cli/host-trials.ts';
import { processesNaming } from '../support/run-drill.ts';

describe('doctor', async () => {
  const { facts, checks } = await examineHost();

  it('looks at everything that protection rests on', () => {
    expect(checks.map(({ name }) => name)).toEqual([
      'node',
      'native part',
      'dirty tracking',
      'attaching to a machine',
      'priority of heartbeats',
      'vector unit',
      'romulus-sim',
      'lz4',
      'crc32c',
      'build tools',
    ]);
    expect(facts?.kernelRelease).toMatch(/^\d+\.\d+/);
  });

  it('finds that what these tests run on is there', () => {
    const found = new Map(checks.map(({ name, finding }) => [name, finding]));
    // The native part was built here.
    for (const name of ['node', 'native part', 'romulus-sim', 'lz4', 'build tools'])
      expect(found.get(name)).toBe('ok');
  });

  it('gives a remedy with every complaint, and only then', () => {
    for (const { finding, remedy } of checks) expect(remedy === null).toBe(finding === 'ok');
  });

  it('tries attaching with a process that ends with the trial', () => {
    const attaching = checks.find(({ name }) => name === 'attaching to a machine');
    if (facts?.ptraceCapability === true) expect(attaching?.finding).toBe('ok');
    expect(processesNaming(`sleep\0${STRANGER_LIFE_S}`)).toEqual([]);
  });

  it.each([
    ['18.20.4', 'fails'],
    ['20.0.0', 'fails'],
    ['20.18.9', 'fails'],
    ['20.19.0', 'ok'],
    ['22.1.0', 'ok'],
    ['100.0.0', 'ok'],
  ])('finds that Node %s %s, as package.json says', (version, finding) => {
    expect(checkNode(version).finding).toBe(finding);
    const { engines } = JSON.parse(readFileSync('package.json', 'utf8')) as {
      engines: { node: string };
    };
    expect(engines.node).toBe('>=20.19');
  });
});
