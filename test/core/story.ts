/**
 * Plays the stories in test/scripts: lines that say what each machine is told and, indented below,
 * everything it must answer, in order.
 *
 *     machine P primary instance=a#1        a machine from here on
 *     P 12 linkClosed linkId=1 why=reset    at 12 ms it is told this
 *       holdOutput                          and answers exactly this
 *     # anything after a hash and a space is for the reader
 *
 * Values: numbers, true, false, `-` (null), `forever` (infinity), `(2 a#1 b#1)` (a word of the
 * register), `b#1@5` (an image at an epoch), and text, quoted when it has spaces.
 */
import { asEpoch } from '../../src/base/units.ts';
import { Backup } from '../../src/core/backup.ts';
import { type BackupEvent, DEFAULT_BACKUP_LIMITS } from '../../src/core/backup-types.ts';
import { DEFAULT_QUEUE_WATERMARKS } from '../../src/core/epoch-pacer.ts';
import { Primary } from '../../src/core/primary.ts';
import { DEFAULT_PRIMARY_LIMITS, type PrimaryEvent } from '../../src/core/primary-types.ts';
import { DEFAULT_PROMISE_MARGIN, DEFAULT_PROMISE_MS } from '../../src/core/promise.ts';
import type { OnSilence } from '../../src/core/register.ts';

type Fields = Record<string, unknown>;
type Step = (event: Fields, nowMs: number) => readonly object[];

/** What most stories do not care about. */
const DEFAULTS: Readonly<Record<string, Fields>> = {
  backupHello: {
    holds: null,
    descriptorMatches: true,
    oldestRetainedEpoch: null,
    provenSinceEpoch: null,
  },
  syncRoundDone: { pages: 100, durationMs: 1 },
  checkpointTaken: { diskWrites: 0, pages: 10, bytes: 1000, pauseMs: 1 },
  acknowledged: { promiseMs: DEFAULT_PROMISE_MS },
  promised: { promiseMs: DEFAULT_PROMISE_MS },
  epochReceived: { intact: true, bytes: 1000 },
};

/** The story as it really goes: the same text when every answer is as written. */
export function play(text: string): string {
  const machines = new Map<string, Step>();
  const lines: string[] = [];
  for (const line of text.split('\n')) {
    if (line.startsWith('  ')) continue;
    lines.push(line);
    const [first = '', second = '', ...rest] = tokens(line);
    if (first === '' || first === '#') continue;
    if (first === 'machine') {
      machines.set(second, machine(rest[0] ?? '', fieldsOf(rest.slice(1))));
      continue;
    }
    const step = machines.get(first);
    const kind = rest[0] ?? '';
    if (step === undefined) throw new Error(`no machine ${first}: ${line}`);
    const event = { kind, ...DEFAULTS[kind], ...fieldsOf(rest.slice(1)) };
    for (const effect of step(event, Number(second))) lines.push(`  ${format(effect as Fields)}`);
  }
  return lines.join('\n');
}

function machine(role: string, fields: Fields): Step {
  const onSilence = (fields['onSilence'] ?? 'arbiter') as OnSilence;
  if (role === 'primary') {
    const primary = new Primary({
      instance: String(fields['instance']),
      firstEpoch: asEpoch(Number(fields['firstEpoch'] ?? 1)),
      intervalMs: Number(fields['intervalMs'] ?? 25),
      minIntervalMs: Number(fields['minIntervalMs'] ?? 0),
      promiseMargin: DEFAULT_PROMISE_MARGIN,
      onSilence,
      watermarks: DEFAULT_QUEUE_WATERMARKS,
      limits: DEFAULT_PRIMARY_LIMITS,
    });
    return (event, nowMs) => primary.step(event as PrimaryEvent, nowMs);
  }
  if (role !== 'backup') throw new Error(`no such role: ${role}`);
  const backup = new Backup({
    node: String(fields['node']),
    promiseMs: DEFAULT_PROMISE_MS,
    onSilence,
    limits: DEFAULT_BACKUP_LIMITS,
  });
  return (event, nowMs) => backup.step(event as BackupEvent, nowMs);
}

function tokens(line: string): string[] {
  return line.match(/(?:[^\s"(]+="[^"]*"|[^\s"(]+=\([^)]*\)|\S)+/g) ?? [];
}

function fieldsOf(parts: readonly string[]): Fields {
  return Object.fromEntries(
    parts.map((part) => {
      const at = part.indexOf('=');
      if (at < 0) throw new Error(`not a field: ${part}`);
      return [part.slice(0, at), parse(part.slice(at + 1))];
    }),
  );
}

function parse(text: string): unknown {
  if (text === '-') return null;
  if (text === 'true' || text === 'false') return text === 'true';
  if (text === 'forever') return Number.POSITIVE_INFINITY;
  if (/^-?\d+(\.\d+)?$/.test(text)) return Number(text);
  if (text.startsWith('"')) return text.slice(1, -1);
  if (text.startsWith('(')) {
    const [generation, runner, partner] = text.slice(1, -1).split(' ');
    return { generation: Number(generation), runner, partner: partner === '-' ? null : partner };
  }
  const image = /^(\S+#\S+)@(\d+)$/.exec(text);
  return image === null ? text : { instance: image[1], epoch: Number(image[2]) };
}

function format({ kind, ...fields }: Fields): string {
  const parts = Object.entries(fields).map(([name, value]) => `${name}=${formatValue(value)}`);
  return [kind, ...parts].join(' ');
}

function formatValue(value: unknown): string {
  if (value === null) return '-';
  if (value === Number.POSITIVE_INFINITY) return 'forever';
  if (typeof value === 'number') return String(Math.round(value * 1000) / 1000);
  if (typeof value === 'string') return /[\s"(]/.test(value) ? `"${value}"` : value;
  if (typeof value === 'boolean') return String(value);
  if (typeof value !== 'object') throw new Error(`cannot write a ${typeof value}`);
  const object = value as Fields;
  if ('runner' in object) {
    const parts = [object['generation'], object['runner'], object['partner']];
    return `(${parts.map(formatValue).join(' ')})`;
  }
  return `${formatValue(object['instance'])}@${formatValue(object['epoch'])}`;
}
