/** Logs go to stderr, as JSON lines: stdout belongs to data. */
import { type Logger, pino } from 'pino';

/** A logger on stderr; `ROMULUS_LOG` sets its level (default `info`). */
export function createLogger(name: string): Logger {
  return pino(
    { name, level: process.env['ROMULUS_LOG'] ?? 'info' },
    // Synchronous, so that the last words of a process that exits are on record.
    pino.destination({ fd: 2, sync: true }),
  );
}
