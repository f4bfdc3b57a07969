/**
 * What a drill has in its hands when it judges: what the outside world heard, and what each node
 * wrote into its audit file. The two are independent: the world trusts no node.
 */
import { readFileSync } from 'node:fs';
import { RomulusError } from '../base/errors.ts';
import type { WorldRecord } from './world-record.ts';

/** One line of an audit file. Which other keys it has depends on `what`. */
export interface AuditLine {
  readonly atNs: bigint;
  readonly what: string;
  readonly epoch: number | null;
  /** Which image was acknowledged for. */
  readonly instance: string | null;
  /** The machine's own count of steps at an epoch's boundary. */
  readonly position: number | null;
  /** When the checkpoint of a mark began: what was heard before is part of its epoch. */
  readonly startedAtNs: bigint | null;
}

/** One change of the running copy. */
export interface Takeover {
  /** Lines of the world, by index: whose output ended, whose began. */
  readonly from: number;
  readonly to: number;
  readonly promotedEpoch: number;
  readonly generation: number;
  /** When it was decided; the successor is not heard before. */
  readonly decidedAtNs: bigint;
}

/** All that the checks look at. */
export interface Evidence {
  readonly record: WorldRecord;
  /** Audit lines by node, in the order of the world's lines. */
  readonly audits: readonly (readonly AuditLine[])[];
  readonly takeovers: readonly Takeover[];
}

function numberOrNull(value: unknown): number | null {
  return typeof value === 'number' && Number.isFinite(value) ? value : null;
}

/**
 * Reads an audit file. A last line cut short is what a killed process leaves, and is left out.
 * @throws {RomulusError} ERR_INTEGRITY_AUDIT when a line before the last is damaged.
 */
export function parseAudit(text: string, name: string): AuditLine[] {
  const lines = text.split('\n');
  const parsed: AuditLine[] = [];
  for (const [index, line] of lines.entries()) {
    if (line === '') continue;
    let value: Record<string, unknown>;
    try {
      value = JSON.parse(line) as Record<string, unknown>;
    } catch (cause) {
      if (index === lines.length - 1) break;
      throw new RomulusError('ERR_INTEGRITY_AUDIT', `${name}: line ${index + 1} is damaged`, {
        remedy: 'Nothing else may write to the audit file; run the drill again.',
        cause,
      });
    }
    parsed.push({
      atNs: BigInt(String(value['at'])),
      what: String(value['what']),
      epoch: numberOrNull(value['epoch']),
      instance: typeof value['instance'] === 'string' ? value['instance'] : null,
      position: numberOrNull(value['position']),
      startedAtNs: typeof value['startedAt'] === 'string' ? BigInt(value['startedAt']) : null,
    });
  }
  return parsed;
}

/** Reads an audit file from disk; a node that never started left none. */
export function readAudit(path: string): AuditLine[] {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
  return parseAudit(text, path);
}
