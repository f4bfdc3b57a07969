/** Builds frame-fuzz.cc with the sanitizers and runs it; see page-fuzz.test.ts for its settings. */
import { test } from 'vitest';
import { skipLoudly } from '../support/require.ts';
import { runSanitized } from './sanitized.ts';

test('no stream of a machine leaves the bounds of its tap, and no frame is lost uncounted', {
  timeout: 120_000,
}, (context) => {
  const why = runSanitized({ harness: 'frame-fuzz.cc', sources: ['frame_queue.cc'], rounds: 40 });
  if (why === null) return;
  skipLoudly('the tap under a fuzzer', new Error(`g++ has no sanitizers here: ${why}`));
  context.skip();
});
