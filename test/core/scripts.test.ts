/**
 * The main paths as stories. `ROMULUS_UPDATE_SCRIPTS=1` writes what really happens into the
 * scripts, to be read before it is committed.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { play } from './story.ts';

const DIRECTORY = join(import.meta.dirname, '..', 'scripts');
const NAMES = readdirSync(DIRECTORY).filter((name) => name.endsWith('.txt'));

test('there are stories', () => expect(NAMES.length).toBeGreaterThan(8));

test.each(NAMES)('%s', (name) => {
  const path = join(DIRECTORY, name);
  const text = readFileSync(path, 'utf8');
  const told = play(text);
  if (process.env['ROMULUS_UPDATE_SCRIPTS'] === '1') writeFileSync(path, told);
  else expect(told).toBe(text);
});
