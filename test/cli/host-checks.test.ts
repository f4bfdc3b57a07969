/** Goal: doctor finds what this host has, and never complains without a way out. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { RomulusError, type ErrorCode } from '../../src/base/errors.ts';
import { checkAttach, checkNode, examineHost } from '../../src/cli/host-checks.ts';
import { missingTools, STRANGER_LIFE_S } from '../../src/cli/host-trials.ts';
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

  it.each<[ErrorCode, number, boolean, string]>([
    ['ERR_HOST_ATTACH_PERMISSION', 1, false, 'slow'],
    ['ERR_HOST_ATTACH_PERMISSION', 1, true, 'fails'],
    ['ERR_HOST_ATTACH_PERMISSION', 2, false, 'fails'],
    ['ERR_HOST_ATTACH_SECCOMP', 1, false, 'fails'],
    ['ERR_INTERNAL_UNEXPECTED', 1, false, 'fails'],
  ])(
    'lays %s with ptrace_scope %i and the right to ptrace %s at the right door: %s',
    (code, yamaScope, ptraceCapability, finding) => {
      if (facts === null) throw new Error('the native part does not load');
      const error = new RomulusError(code, 'no', { remedy: '-' });
      const host = { ...facts, yamaScope, ptraceCapability };
      expect(checkAttach(host, { tried: 'whole', error }).finding).toBe(finding);
    },
  );

  it('looks for the first word of a compiler that has several', () => {
    expect(missingTools('env g++')).toEqual([]);
    expect(missingTools('no-such-cache g++')).toEqual(['no-such-cache']);
    expect(missingTools('no-such-compiler')).toEqual(['no-such-compiler with C++20']);
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
