/**
 * Builds page-fuzz.cc with the sanitizers and runs it. ROMULUS_FUZZ_SEED and ROMULUS_FUZZ_ROUNDS
 * repeat or lengthen a run. Says so when this host's compiler has no sanitizers.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';

const SANITIZERS = '-fsanitize=address,undefined';
const NATIVE = new URL('../../native-sim/src/', import.meta.url).pathname;
const HARNESS = new URL('page-fuzz.cc', import.meta.url).pathname;
const SOURCES = [
  'crc32c.cc',
  'page_delta_avx2.cc',
  'page_delta_avx512.cc',
  'page_delta_avx512_apply.cc',
  'page_delta_batch.cc',
  'page_delta_scalar.cc',
  'page_delta_select.cc',
];
const ROUNDS = process.env['ROMULUS_FUZZ_ROUNDS'] ?? '1500';
const SEED = process.env['ROMULUS_FUZZ_SEED'] ?? String(Date.now() % 1_000_000);
let folder = '';

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'romulus-fuzz-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

/** Why this host cannot build with sanitizers, null when it can. */
function whyNot(): string | null {
  const probe = join(folder, 'probe.cc');
  writeFileSync(probe, 'int main() { return 0; }\n');
  const built = spawnSync('g++', [SANITIZERS, probe, '-o', join(folder, 'probe')]);
  if (built.error !== undefined) return built.error.message;
  return built.status === 0 ? null : built.stderr.toString();
}

test('damaged batches never leave their bounds, and all forms agree', {
  timeout: 300_000,
}, (context) => {
  const why = whyNot();
  if (why !== null) {
    console.warn(`SKIPPED: the page functions were not fuzzed, g++ has no sanitizers here: ${why}`);
    context.skip();
  }
  const program = join(folder, 'page-fuzz');
  const sources = [HARNESS, ...SOURCES.map((source) => join(NATIVE, source))];
  const flags = ['-std=gnu++20', '-O1', '-g', '-fno-sanitize-recover=all', SANITIZERS];
  execFileSync('g++', [...flags, `-I${NATIVE}`, ...sources, '-o', program]);
  const run = spawnSync(program, [SEED, ROUNDS], { encoding: 'utf8' });
  console.info(`page-fuzz, seed ${SEED}: ${run.stdout.trim()}`);
  expect(run.status, `seed ${SEED}\n${run.stderr}`).toBe(0);
});
