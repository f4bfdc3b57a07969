/** Builds a C++ harness with the sanitizers and runs it. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';

const SANITIZERS = '-fsanitize=address,undefined';
const NATIVE = new URL('../../native-sim/src/', import.meta.url).pathname;

export interface SanitizedRun {
  /** The harness, beside this file. */
  readonly harness: string;
  /** What it tests, files of native-sim/src. */
  readonly sources: readonly string[];
  /** Of the default number of rounds; ROMULUS_FUZZ_ROUNDS takes its place. */
  readonly rounds: number;
}

/**
 * Runs it with a seed of the clock's, or that of ROMULUS_FUZZ_SEED.
 * @returns why it could not run here, null when it ran.
 */
export function runSanitized({ harness, sources, rounds }: SanitizedRun): string | null {
  const folder = mkdtempSync(join(tmpdir(), 'romulus-fuzz-'));
  try {
    const why = whyNot(folder);
    if (why !== null) return why;
    const program = join(folder, 'harness');
    const flags = ['-std=gnu++20', '-O1', '-g', '-fno-sanitize-recover=all', SANITIZERS];
    const files = [
      new URL(harness, import.meta.url).pathname,
      ...sources.map((source) => join(NATIVE, source)),
    ];
    execFileSync('g++', [...flags, `-I${NATIVE}`, ...files, '-o', program]);
    const seed = process.env['ROMULUS_FUZZ_SEED'] ?? String(Date.now() % 1_000_000);
    const run = spawnSync(program, [seed, process.env['ROMULUS_FUZZ_ROUNDS'] ?? String(rounds)], {
      encoding: 'utf8',
    });
    console.info(`${harness}, seed ${seed}: ${run.stdout.trim()}`);
    expect(run.status, `seed ${seed}\n${run.stderr}`).toBe(0);
    return null;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function whyNot(folder: string): string | null {
  const probe = join(folder, 'probe.cc');
  writeFileSync(probe, 'int main() { return 0; }\n');
  const built = spawnSync('g++', [SANITIZERS, probe, '-o', join(folder, 'probe')]);
  if (built.error !== undefined) return built.error.message;
  return built.status === 0 ? null : built.stderr.toString();
}
