/**
 * The command line of a running QEMU, cut into options. It is what the kernel shows of the process,
 * so a QEMU started through the dynamic loader (`ld-linux-x86-64.so.2 --library-path .. qemu ..`)
 * has the loader and its options in front.
 *
 * Which options exist, and what becomes of them on the backup, stands in option-rules.ts.
 */
import { takesNoValue } from './option-rules.ts';

/** One option, without its dashes. A bare word (an image for the first disk) has the name `''`. */
export interface QemuOption {
  readonly name: string;
  readonly value: string | null;
}

/** A command line: what starts QEMU, then its options. */
export interface ParsedArgv {
  /** The program, with a loader and the loader's options in front of it. */
  readonly launcher: readonly string[];
  readonly options: readonly QemuOption[];
}

/** Options of glibc's loader that take a value. */
const LOADER_OPTIONS_WITH_VALUE: ReadonlySet<string> = new Set([
  '--library-path',
  '--preload',
  '--argv0',
  '--audit',
  '--inhibit-rpath',
  '--glibc-hwcaps-prepend',
  '--glibc-hwcaps-mask',
]);

/** Cuts a command line into launcher and options. */
export function parseArgv(argv: readonly string[]): ParsedArgv {
  const start = optionsStart(argv);
  const options: QemuOption[] = [];
  for (let at = start; at < argv.length; at += 1) {
    const word = argv[at] ?? '';
    if (!word.startsWith('-') || word === '-') {
      options.push({ name: '', value: word });
      continue;
    }
    const name = word.replace(/^--?/, '');
    const next = argv[at + 1];
    if (takesNoValue(name, next)) {
      options.push({ name, value: null });
    } else {
      options.push({ name, value: next ?? '' });
      at += 1;
    }
  }
  return { launcher: argv.slice(0, start), options };
}

/** Puts options together again. */
export function formatOptions(options: readonly QemuOption[]): string[] {
  return options.flatMap(({ name, value }) => {
    if (name === '') return value === null ? [] : [value];
    return value === null ? [`-${name}`] : [`-${name}`, value];
  });
}

function optionsStart(argv: readonly string[]): number {
  const program = argv[0]?.split('/').at(-1) ?? '';
  if (!/^ld(?:-linux.*|-musl.*|-\d.*)?\.so/.test(program)) return Math.min(1, argv.length);
  let at = 1;
  while (at < argv.length && argv[at]?.startsWith('--') === true) {
    at += LOADER_OPTIONS_WITH_VALUE.has(argv[at] ?? '') ? 2 : 1;
  }
  return Math.min(at + 1, argv.length);
}
