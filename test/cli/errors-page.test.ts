/** Goal: docs/ERRORS.md lists every code that the source can raise, and no other. */
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const CODE = /ERR_[A-Z]+_[A-Z0-9_]*[A-Z0-9]/g;

function sources(folder: string, ending: RegExp): string[] {
  return readdirSync(`${ROOT}${folder}`, { recursive: true, encoding: 'utf8' })
    .filter((name) => ending.test(name))
    .map((name) => readFileSync(`${ROOT}${folder}/${name}`, 'utf8'));
}

/** Quoted codes only: comments also name whole families. */
function codesRaised(): Set<string> {
  const texts = [...sources('src', /\.ts$/), ...sources('native-sim/src', /\.(?:cc|h)$/)];
  const quoted = texts.flatMap(
    (text) => text.match(/['"]ERR_[A-Z]+_[A-Z0-9_]*[A-Z0-9]['"]/g) ?? [],
  );
  return new Set(quoted.map((code) => code.slice(1, -1)));
}

describe('docs/ERRORS.md', () => {
  const page = readFileSync(`${ROOT}docs/ERRORS.md`, 'utf8');
  const listed = new Set(page.match(CODE) ?? []);

  it('lists every code that can be raised', () => {
    expect([...codesRaised()].filter((code) => !listed.has(code)).sort()).toEqual([]);
  });

  it('lists no code that is gone', () => {
    const known = codesRaised();
    expect([...listed].filter((code) => !known.has(code)).sort()).toEqual([]);
  });
});
