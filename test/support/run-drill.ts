/** Runs the drill as a user does, by the built command line, and says what a proof is. */
import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { expect } from 'vitest';
import { CLI_PATH } from '../../src/drill/node-process.ts';
import type { DrillResult } from '../../src/drill/result.ts';

/** Longest a drill may take, milliseconds; one that begins anew on a busy host takes that often as long. */
export const DRILL_WAIT_MS = 300_000;
/** So much earlier it is ended, so that what it had said so far is in the failure. */
const LAST_WORDS_MS = 20_000;

/** How a drill ended. */
export interface Finished {
  readonly code: number;
  readonly result: DrillResult;
}

/** Runs one drill; its last line is the result. */
export function drill(...args: string[]): Promise<Finished> {
  const words = ['drill', '--json', ...args];
  return new Promise((resolve, reject) => {
    execFile(
      process.execPath,
      [CLI_PATH, ...words],
      { maxBuffer: 64 * 1024 * 1024, timeout: DRILL_WAIT_MS - LAST_WORDS_MS },
      (error, stdout, stderr) => {
        const last = stdout.trim().split('\n').at(-1) ?? '';
        if (!last.includes('"checks"'))
          reject(new Error(`${words.join(' ')} gave no result:\n${stdout}\n${stderr}`));
        else
          resolve({
            code: error === null ? 0 : Number(error.code ?? 1),
            result: JSON.parse(last) as DrillResult,
          });
      },
    );
  });
}

/** How many drills in a row ended. */
export interface FinishedSeries {
  readonly code: number;
  readonly summary: { readonly runs: number; readonly passed: number; readonly ok: boolean };
  /** What was wrong, seed by seed. */
  readonly complaints: string;
}

/** Runs that many drills, as one command. */
export function drills(times: number, ...args: string[]): Promise<FinishedSeries> {
  const words = ['drill', '--json', '--times', String(times), ...args];
  return new Promise((resolve, reject) => {
    execFile(
      process.execPath,
      [CLI_PATH, ...words],
      { maxBuffer: 64 * 1024 * 1024 * times, timeout: DRILL_WAIT_MS * times - LAST_WORDS_MS },
      (error, stdout, stderr) => {
        const lines = stdout.trim().split('\n');
        const last = lines.at(-1) ?? '';
        if (!last.includes('"passed"'))
          return reject(new Error(`${words.join(' ')} gave no summary:\n${stdout}\n${stderr}`));
        const failed = lines
          .filter((line) => line.includes('"checks"'))
          .map((line) => JSON.parse(line) as DrillResult)
          .filter(({ ok }) => !ok)
          .map(({ seed, checks, evidence }) =>
            JSON.stringify({ seed, broken: checks.filter(({ ok }) => !ok), evidence }),
          );
        resolve({
          code: error === null ? 0 : Number(error.code ?? 1),
          summary: JSON.parse(last) as FinishedSeries['summary'],
          complaints: [...failed, stderr].join('\n'),
        });
      },
    );
  });
}

/** What every drill must come to, told with all it takes to play it again. */
export function expectProof({ code, result }: Finished): void {
  const { seed, kill, evidence } = result;
  const broken = result.checks.filter(({ ok }) => !ok);
  expect({ seed, kill, broken, evidence }).toEqual({ seed, kill, broken: [], evidence: null });
  expect(result).toMatchObject({
    ok: true,
    stateMatches: true,
    outputsLost: 0,
    outputsReordered: 0,
  });
  // A QEMU's console belongs to its host, and is not held back like output to the world.
  if (result.guest === 'sim') expect(result.releasedByBoth).toBe(0);
  expect(result.outputsReleased).toBeGreaterThan(0);
  expect(code).toBe(0);
}

/** Command lines of living processes that mention the text. */
export function processesNaming(text: string): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(commandLineOf)
    .filter((line) => line.includes(text));
}

/** Command line of a process, its words ended by NUL; empty when it is gone. */
export function commandLineOf(pid: number | string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1');
  } catch (error) {
    // It ended while we looked.
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return '';
    throw error;
  }
}
