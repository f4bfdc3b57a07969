/**
 * The audit file: one JSON object a line about every act that matters after a failover (marks,
 * acknowledgements, releases, promotions, fences). Lines are written with one `write` each, so
 * that what a killed process did is on record up to the instant it died.
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import { nowNs } from './clock.ts';

export type AuditEvent =
  | 'mark'
  | 'ack-sent'
  | 'ack-received'
  | 'release'
  | 'open'
  | 'hold'
  | 'promoted'
  | 'decided'
  | 'fencing'
  | 'fenced'
  | 'state';

export class Audit {
  #fd: number | null;

  /** Appends to `path`; with null nothing is written. */
  constructor(path: string | null) {
    this.#fd = path === null ? null : openSync(path, 'a', 0o640);
  }

  record(what: AuditEvent, facts: Readonly<Record<string, unknown>>): void {
    if (this.#fd === null) return;
    writeSync(this.#fd, `${JSON.stringify({ at: nowNs().toString(), what, ...facts })}\n`);
  }

  close(): void {
    if (this.#fd !== null) closeSync(this.#fd);
    this.#fd = null;
  }
}
