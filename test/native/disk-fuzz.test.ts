/** Builds disk-fuzz.cc with the sanitizers and runs it; see page-fuzz.test.ts for its settings. */
import { test } from 'vitest';
import { skipLoudly } from '../support/require.ts';
import { runSanitized } from './sanitized.ts';

test('no client of a disk leaves the bounds of its intake, and no write is lost or out of order', {
  timeout: 120_000,
}, (context) => {
  const why = runSanitized({
    harness: 'disk-fuzz.cc',
    sources: ['nbd_requests.cc', 'write_queue.cc'],
    rounds: 40,
  });
  if (why === null) return;
  skipLoudly('the intake under a fuzzer', new Error(`g++ has no sanitizers here: ${why}`));
  context.skip();
});
