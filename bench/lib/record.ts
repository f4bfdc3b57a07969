/** What is written of one area's run: the result and the circumstances it was measured under. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { HostFacts } from './host.ts';
import type { BenchResult, Mode } from './result.ts';

/** One JSON file, `<name>.json`. */
export interface AreaRecord extends BenchResult {
  readonly schemaVersion: 1;
  readonly title: string;
  readonly mode: Mode;
  readonly startedAt: string;
  readonly seconds: number;
  readonly host: HostFacts;
  /** Load average over a minute when the area began and ended; the area itself is in the latter. */
  readonly loadStart: number;
  readonly loadEnd: number;
}

/** Writes the record into a directory that need not exist yet. */
export function writeRecord(directory: string, record: AreaRecord): void {
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, `${record.name}.json`), `${JSON.stringify(record, null, 1)}\n`);
}

/** All records in a directory, by name; those of another shape are left out. */
export function readRecords(directory: string): ReadonlyMap<string, AreaRecord> {
  const records = new Map<string, AreaRecord>();
  for (const file of readdirSync(directory)) {
    if (!file.endsWith('.json')) continue;
    const value = JSON.parse(readFileSync(join(directory, file), 'utf8')) as Partial<AreaRecord>;
    if (value.schemaVersion === 1 && value.name !== undefined && value.rows !== undefined)
      records.set(value.name, value as AreaRecord);
  }
  return records;
}
