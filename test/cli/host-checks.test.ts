/** Goal: doctor finds what this host has, and never complains without a way out. */
import { describe, expect, it } from 'vitest';
import { examineHost } from '../../src/cli/host-checks.ts';

describe('doctor', () => {
  const { facts, checks } = examineHost();

  it('looks at everything that protection rests on', () => {
    expect(checks.map(({ name }) => name)).toEqual([
      'node',
      'native part',
      'dirty tracking',
      'attaching to a machine',
      'vector unit',
      'romulus-sim',
      'lz4',
      'crc32c',
    ]);
    expect(facts?.kernelRelease).toMatch(/^\d+\.\d+/);
  });

  it('finds that what these tests run on is there', () => {
    const found = new Map(checks.map(({ name, finding }) => [name, finding]));
    for (const name of ['node', 'native part', 'romulus-sim', 'lz4'])
      expect(found.get(name)).toBe('ok');
  });

  it('gives a remedy with every complaint, and only then', () => {
    for (const { finding, remedy } of checks) expect(remedy === null).toBe(finding === 'ok');
  });
});
