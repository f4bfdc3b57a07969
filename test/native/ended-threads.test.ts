/**
 * Goal: a thread may be ended at any moment without ending its process, and what a wake's function
 * throws is not lost. Method: child processes, since each of these once ended or fooled one.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const SCRIPT = fileURLToPath(new URL('ended-threads.mjs', import.meta.url));
const ENDED = 25;

it.each(['wake', 'call'])('a thread that is ended in a %s ends alone', (moment) => {
  const said = execFileSync(process.execPath, [SCRIPT, moment, String(ENDED)], {
    encoding: 'utf8',
  });
  expect(said).toBe(`ended ${ENDED}\n`);
});

it('what a wake throws is uncaught, as of any event', () => {
  const { status, stderr } = spawnSync(process.execPath, [SCRIPT, 'throw'], { encoding: 'utf8' });
  expect(stderr).toContain('a wake that throws');
  expect(status).toBe(1);
});
