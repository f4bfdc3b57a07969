/**
 * Goal: the command that a failed drill prints plays that very drill again. Method: the command is parsed
 * as a shell and the command line parse it, for options of every kind and value.
 */
import { Command } from 'commander';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  addDrillFlags,
  type GivenFlags,
  optionsOf,
  replayCommand,
  SEED_MAX,
  withDefaults,
} from '../../src/cli/drill-flags.ts';
import {
  ACCELERATORS,
  type DrillOptions,
  KILLS,
  QEMU_WORKLOADS,
  WORKLOADS,
} from '../../src/drill/options.ts';

/** Words as a shell makes them of a line in which only single quotes and `\'` mean something. */
function shellWords(line: string): string[] {
  const words = line.match(/(?:'[^']*'|\\'|[^\s'\\])+/g) ?? [];
  return words.map((word) =>
    word.replaceAll(
      /'([^']*)'|\\(')/g,
      (_, inner?: string, escaped?: string) => inner ?? escaped ?? '',
    ),
  );
}

function parsedAgain(line: string): DrillOptions {
  const command = addDrillFlags(new Command('drill')).exitOverride();
  const [program, verb, ...flags] = shellWords(line);
  expect([program, verb]).toEqual(['romulus', 'drill']);
  command.parse(flags, { from: 'user' });
  const given = withDefaults(command.opts<GivenFlags>());
  return optionsOf(given, given.seed ?? 0);
}

const common = {
  memoryBytes: fc.integer({ min: 1, max: 1_000_000 }).map((pages) => pages * 4096),
  intervalMs: fc.constantFrom(1, 12.5, 25, 1500),
  minIntervalMs: fc.constantFrom(null, 0, 2, 7.5),
  seed: fc.integer({ min: 1, max: SEED_MAX }),
  rejoin: fc.boolean(),
  tracker: fc.constantFrom('auto' as const, 'mprotect' as const),
  keep: fc.boolean(),
};
const maybeText = fc.option(fc.constantFrom('pc-q35-7.2', 'max,-avx', 'x y', "it's"), {
  nil: null,
});
const whichQemu = fc.constantFrom('system', '10.0', '/opt/my qemu/bin', "/opt/'q'");

const simOptions: fc.Arbitrary<DrillOptions> = fc.record({
  ...common,
  guest: fc.constant('sim' as const),
  kill: fc.constantFrom(...KILLS.filter((kill) => kill !== 'uplink')),
  workload: fc.constantFrom(...WORKLOADS),
  rate: fc.option(fc.integer({ min: 1, max: 1_000_000_000 }), { nil: null }),
  redisBenchmark: fc.boolean(),
});
const qemuOptions: fc.Arbitrary<DrillOptions> = fc
  .record({
    ...common,
    guest: fc.constant('qemu' as const),
    kill: fc.constantFrom(...KILLS),
    workload: fc.constantFrom(...QEMU_WORKLOADS),
    accelerator: fc.constantFrom(...ACCELERATORS),
    disk: fc.boolean(),
    net: fc.boolean(),
    qemu: whichQemu,
    backupQemu: whichQemu,
    machine: maybeText,
    cpu: maybeText,
  })
  // What the command line refuses was never run.
  .filter(({ kill, net }) => kill !== 'uplink' || net)
  .filter(({ workload, disk, net }) => workload !== 'bare' || !(disk || net));

describe('the command of a replay', () => {
  it('is one that a reader understands', () => {
    const line = replayCommand({
      guest: 'sim',
      workload: 'kv',
      memoryBytes: 256 * 1024 * 1024,
      intervalMs: 25,
      minIntervalMs: 0,
      kill: 'link',
      seed: 7,
      rejoin: true,
      tracker: 'mprotect',
      keep: false,
      rate: 5000,
      redisBenchmark: true,
    });
    expect(line).toBe(
      'romulus drill --guest sim --workload kv --memory 256M --interval 25ms --min-interval off ' +
        '--kill link --seed 7 --rejoin --tracker mprotect --rate 5000 --redis-benchmark',
    );
  });

  it.each([
    ['sim', simOptions],
    ['qemu', qemuOptions],
  ])('gives back every option of a %s', (_, all) => {
    fc.assert(
      fc.property(all, (options) => {
        expect(parsedAgain(replayCommand(options))).toEqual(options);
      }),
    );
  });
});
