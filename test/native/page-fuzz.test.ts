/**
 * Builds page-fuzz.cc with the sanitizers and runs it. ROMULUS_FUZZ_SEED and ROMULUS_FUZZ_ROUNDS
 * repeat or lengthen a run. Says so when this host's compiler has no sanitizers.
 */
import { test } from 'vitest';
import { skipLoudly } from '../support/require.ts';
import { runSanitized } from './sanitized.ts';

const SOURCES = [
  'crc32c.cc',
  'page_delta_avx2.cc',
  'page_delta_avx2_apply.cc',
  'page_delta_avx512.cc',
  'page_delta_avx512_apply.cc',
  'page_delta_batch.cc',
  'page_delta_scalar.cc',
  'page_delta_select.cc',
];

test('damaged batches never leave their bounds, and all forms agree', {
  timeout: 300_000,
}, (context) => {
  const why = runSanitized({ harness: 'page-fuzz.cc', sources: SOURCES, rounds: 1500 });
  if (why === null) return;
  skipLoudly('the page functions under a fuzzer', new Error(`g++ has no sanitizers here: ${why}`));
  context.skip();
});
