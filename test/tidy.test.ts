import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { findViolations, importsOf, LINES_MAX, type Sources } from './tidy/architecture.ts';

const SRC = new URL('../src/', import.meta.url);

function sourcesOfProject(): Sources {
  const paths = readdirSync(SRC, { recursive: true, encoding: 'utf8' });
  const files = paths.filter((path) => /\.tsx?$/.test(path)).sort();
  return new Map(files.map((path) => [path, readFileSync(new URL(path, SRC), 'utf8')]));
}

describe('the architecture', () => {
  it('holds in src', () => {
    const sources = sourcesOfProject();
    expect(sources.size).toBeGreaterThan(20);
    expect(findViolations(sources)).toEqual([]);
  });

  it('is seen: the scanner finds imports in the real sources', () => {
    const count = [...sourcesOfProject().values()].flatMap(importsOf).length;
    expect(count).toBeGreaterThan(50);
  });
});

describe('a planted violation is caught', () => {
  const PLANTS: readonly [string, Record<string, string>, RegExp][] = [
    [
      'an upward import',
      { 'core/a.ts': "import { b } from '../engine/b.ts';" },
      /core\/a\.ts.*floor 2 imports floor 4/,
    ],
    [
      'an upward import of types only, over several lines',
      { 'base/a.ts': "import type {\n  B,\n  C,\n} from '../codec/b.ts';" },
      /floor 0 imports floor 1/,
    ],
    [
      'an upward re-export',
      { 'codec/a.ts': "export * from '../core/b.ts';" },
      /floor 1 imports floor 2/,
    ],
    [
      'an upward dynamic import',
      { 'links/a.ts': "const b = await import('../engine/b.ts');" },
      /floor 3 imports floor 4/,
    ],
    [
      'a room that imports a room',
      { 'guests/sim/a.ts': "import { b } from '../../nets/b.ts';" },
      /rooms never import rooms/,
    ],
    ['a folder on no floor', { 'utils/a.ts': "import '../base/b.ts';" }, /utils is on no floor/],
    [
      'native code in the core',
      { 'core/a.ts': "import { b } from '../native/b.ts';" },
      /native is for floors 3 and up/,
    ],
    [
      'native wrappers that know a room',
      { 'native/a.ts': "import { b } from '../guests/b.ts';" },
      /native may use base and codec only/,
    ],
    [
      'input and output on a pure floor',
      { 'codec/a.ts': "import { readFileSync } from 'node:fs';" },
      /imports node:fs: this floor is pure/,
    ],
    ['a package on a pure floor', { 'core/a.ts': "import ws from 'ws';" }, /this floor is pure/],
    ['a require on a pure floor', { 'base/a.ts': "require('fs');" }, /this floor is pure/],
    ['a clock', { 'core/a.ts': 'const now = Date.now();' }, /uses Date/],
    ['a timer', { 'core/a.ts': 'setTimeout(() => 1, 2);' }, /uses setTimeout/],
    ['a clock in a template', { 'core/a.ts': 'const a = `${performance.now()}`;' }, /performance/],
    ['chance', { 'base/a.ts': 'const a = Math.random();' }, /uses Math\.random/],
    ['the process', { 'codec/a.ts': 'if (process.env.X) {}' }, /uses process/],
    [
      'a cycle',
      {
        'engine/a.ts': "import './b.ts';",
        'engine/b.ts': "export { c } from './c.ts';",
        'engine/c.ts': "import { type A } from './a.ts';",
      },
      /cycle: engine\/a\.ts -> engine\/b\.ts -> engine\/c\.ts -> engine\/a\.ts/,
    ],
    ['a file too long', { 'base/a.ts': '\n'.repeat(LINES_MAX + 1) }, /601 lines/],
    ['an import that leaves src', { 'cli/a.ts': "import '../../test/b.ts';" }, /leaves src/],
    ['an import without its ending', { 'cli/a.ts': "import './b';" }, /name the \.ts file/],
    [
      'a second loader of the addon',
      { 'guests/a.ts': "const a = '../build/romulus_native.node';" },
      /only native\/load\.ts/,
    ],
  ];
  it.each(PLANTS)('%s', (_name, files, message) => {
    const violations = findViolations(new Map(Object.entries(files)));
    expect(violations).toHaveLength(1);
    expect(violations[0]).toMatch(message);
  });

  it('and what is allowed is not', () => {
    const allowed = {
      'core/a.ts': [
        "// import { b } from '../engine/b.ts'; Date.now()",
        "/* import c from 'node:fs' */",
        "const text = 'performance and Date';",
        'const fields = { process: 1, Date: 2 };',
        'use(fields.process);',
        'class D {',
        '  setInterval(intervalMs: number): void {',
        '}',
        "import { d } from '../codec/d.ts';",
        "import type { e } from '../native/e.ts';",
      ].join('\n'),
      'codec/d.ts': "import { z } from 'zod';\nimport { f } from '../base/f.ts';",
      'engine/j.ts': "import type { G } from './g.ts';",
      'engine/g.ts':
        "import './j.ts';\nimport net from 'node:net';\nimport { h } from '../links/h.ts';",
      'links/h.ts': "import { i } from '../native/i.ts';",
      'index.ts': "export { g } from './engine/g.ts';",
    };
    expect(findViolations(new Map(Object.entries(allowed)))).toEqual([]);
  });
});
