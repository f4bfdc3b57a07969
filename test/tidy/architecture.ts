/**
 * The architecture's rules (docs/ARCHITECTURE.md "Floors") as a function of source texts, so that
 * the test can show it planted violations. Imports are found by a small scanner of our own: the
 * usual tools need a compiler API that TypeScript 7 does not have, and report nothing at all.
 */

/** Source texts by path relative to `src`, with `/` between folders. */
export type Sources = ReadonlyMap<string, string>;

/** Hard bound; files are meant to be 100 to 400 lines. */
export const LINES_MAX = 600;
/** Reviewed exceptions, each with its own bound: they may shrink, never grow. */
const LONGER_FILES: ReadonlyMap<string, number> = new Map();

const FLOORS: ReadonlyMap<string, number> = new Map([
  ['base', 0],
  ['codec', 1],
  ['core', 2],
  ['links', 3],
  ['guests', 3],
  ['disks', 3],
  ['nets', 3],
  ['arbiters', 3],
  ['fencers', 3],
  ['signals', 3],
  ['engine', 4],
  ['drill', 4],
  ['bench', 4],
  ['cli', 5],
  ['daemon', 5],
  ['dashboard', 5],
  // What the package exports: src/index.ts.
  ['', 6],
]);
const ROOM_FLOOR = 3;
/** Beside the floors: typed wrappers of the native part, for rooms and above. */
const NATIVE = 'native';
const NATIVE_USES: ReadonlySet<string> = new Set(['base', 'codec', NATIVE]);
const ADDON_LOADER = 'native/load.ts';

/** Pure floors, and the packages each may use: computation only. */
const PURE: ReadonlyMap<string, ReadonlySet<string>> = new Map([
  ['base', new Set<string>()],
  ['codec', new Set(['fast-crc32c', 'lz4', 'zod'])],
  ['core', new Set<string>()],
]);
const IMPURE_GLOBALS =
  /(?<![.\w$])(Date|performance|process|fetch|setTimeout|setInterval|setImmediate|queueMicrotask|crypto)(?![\w$]|\s*\??:)/g;
const IMPURE_RANDOM = /\bMath\s*\.\s*random\b/g;

/** One import or re-export. */
export interface Import {
  readonly specifier: string;
  readonly isTypeOnly: boolean;
}

const STRING = String.raw`['"]([^'"\n]+)['"]`;
const STATEMENTS: readonly RegExp[] = [
  new RegExp(String.raw`\b(?:import|export)\s+(type\s+)?(?:[\w$*\s{},]+?)\s+from\s*${STRING}`, 'g'),
  new RegExp(String.raw`\bimport(\s+type)?\s*${STRING}`, 'g'),
  new RegExp(String.raw`\bimport(\s+type)?\s*\(\s*${STRING}`, 'g'),
  new RegExp(String.raw`\brequire(\s+type)?\s*\(\s*${STRING}`, 'g'),
];

/** The code with comments blanked, and with the insides of strings blanked too when asked for. */
export function withoutComments(source: string, strings: 'kept' | 'blanked' = 'kept'): string {
  const token =
    /\/\/[^\n]*|\/\*[\s\S]*?\*\/|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`/g;
  return source.replaceAll(token, (text) => {
    if (text.startsWith('/')) return text.replaceAll(/[^\n]/g, ' ');
    // What stands in a template's ${} is code.
    if (strings === 'kept' || (text.startsWith('`') && text.includes('${'))) return text;
    return text[0] + text.slice(1, -1).replaceAll(/[^\n]/g, ' ') + text.at(-1);
  });
}

/** All imports, re-exports, dynamic imports and requires of a file. */
export function importsOf(source: string): Import[] {
  const code = withoutComments(source);
  return STATEMENTS.flatMap((pattern) =>
    Array.from(code.matchAll(pattern), (match) => ({
      specifier: match[2] ?? '',
      isTypeOnly: match[1] !== undefined,
    })),
  );
}

function folderOf(path: string): string {
  return path.includes('/') ? path.slice(0, path.indexOf('/')) : '';
}

/** Where a relative import leads, relative to `src`; starts with `../` when that is outside. */
function resolve(from: string, specifier: string): string {
  const parts = from.split('/').slice(0, -1);
  for (const step of specifier.split('/')) {
    if (step === '..' && parts.length > 0 && parts.at(-1) !== '..') parts.pop();
    else if (step !== '.') parts.push(step);
  }
  return parts.join('/');
}

function checkFolders(from: string, to: string, isTypeOnly: boolean): string | undefined {
  const [source, target] = [folderOf(from), folderOf(to)];
  if (source === target) return undefined;
  if (source === NATIVE) {
    return NATIVE_USES.has(target) ? undefined : 'native may use base and codec only';
  }
  const sourceFloor = FLOORS.get(source);
  if (sourceFloor === undefined) return `${source} is on no floor`;
  if (target === NATIVE) {
    const mayUse = sourceFloor >= ROOM_FLOOR || (isTypeOnly && source !== 'base');
    return mayUse ? undefined : 'native is for floors 3 and up';
  }
  const targetFloor = FLOORS.get(target);
  if (targetFloor === undefined) return `${target} is on no floor`;
  if (targetFloor > sourceFloor) return `floor ${sourceFloor} imports floor ${targetFloor}`;
  if (targetFloor === ROOM_FLOOR && sourceFloor === ROOM_FLOOR) return 'rooms never import rooms';
  return undefined;
}

function checkImport(path: string, { specifier, isTypeOnly }: Import): string | undefined {
  if (!specifier.startsWith('.')) {
    const allowed = PURE.get(folderOf(path));
    return allowed === undefined || allowed.has(specifier) ? undefined : 'this floor is pure';
  }
  const target = resolve(path, specifier);
  if (target.startsWith('../')) return 'leaves src';
  if (!target.endsWith('.ts')) return 'imports name the .ts file';
  return checkFolders(path, target, isTypeOnly);
}

function checkPurity(path: string, source: string): string[] {
  if (!PURE.has(folderOf(path))) return [];
  const code = withoutComments(source, 'blanked');
  const uses = [...code.matchAll(IMPURE_GLOBALS), ...code.matchAll(IMPURE_RANDOM)];
  return uses
    .filter((match) => !isDefinition(code, match.index, match[0]))
    .map((match) => `${path}: uses ${match[0]}, but this floor is pure`);
}

/** Whether a method of that name is declared here, rather than the global one called. */
function isDefinition(code: string, index: number, name: string): boolean {
  const start = code.lastIndexOf('\n', index) + 1;
  const end = code.indexOf('\n', index);
  const line = code.slice(start, end < 0 ? code.length : end).trim();
  return line.startsWith(`${name}(`) && /\)(: [^;={]+)? \{$|\): [^;={]+;$/.test(line);
}

/** Every cycle, as the path around it. Imports of types alone are erased, and close none. */
function findCycles(sources: Sources): string[] {
  const done = new Set<string>();
  const cycles: string[] = [];
  const visit = (path: string, trail: readonly string[]): void => {
    const start = trail.indexOf(path);
    if (start >= 0) cycles.push(`cycle: ${[...trail.slice(start), path].join(' -> ')}`);
    if (start >= 0 || done.has(path)) return;
    for (const { specifier, isTypeOnly } of importsOf(sources.get(path) ?? '')) {
      if (isTypeOnly || !specifier.startsWith('.')) continue;
      visit(resolve(path, specifier), [...trail, path]);
    }
    done.add(path);
  };
  for (const path of sources.keys()) visit(path, []);
  return cycles;
}

/** Everything that breaks the rules, one sentence each. */
export function findViolations(sources: Sources): string[] {
  const violations: string[] = [];
  for (const [path, source] of sources) {
    for (const item of importsOf(source)) {
      const why = checkImport(path, item);
      if (why !== undefined) violations.push(`${path}: imports ${item.specifier}: ${why}`);
    }
    violations.push(...checkPurity(path, source));
    const lines = source.split('\n').length - 1;
    const linesMax = LONGER_FILES.get(path) ?? LINES_MAX;
    if (lines > linesMax) violations.push(`${path}: ${lines} lines, more than ${linesMax}`);
    if (path !== ADDON_LOADER && withoutComments(source).includes('romulus_native.node')) {
      violations.push(`${path}: only ${ADDON_LOADER} loads the addon`);
    }
  }
  return [...violations, ...findCycles(sources)];
}
