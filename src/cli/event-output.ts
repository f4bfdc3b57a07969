/**
 * What a node tells on stdout while it runs. A reader that goes away, or stops reading, must neither
 * end nor hold up the engine, so nothing is written from the main thread: what waits is bounded, and
 * beyond the bound lines are left out.
 */
import { pino } from 'pino';

/** Bytes that may wait for a slow reader. */
export const UNREAD_BYTES_MAX: number = 1024 * 1024;
/** How long the last lines may take at the end, milliseconds. */
const LAST_LINES_MS = 1000;

/** Lines on stdout. */
export class EventOutput {
  readonly #stream = pino.destination({ fd: 1, sync: false, maxLength: UNREAD_BYTES_MAX });

  write(line: string): void {
    this.#stream.write(`${line}\n`);
  }

  /** Waits, not for ever, until all is written. */
  async close(): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const patience = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, LAST_LINES_MS);
    });
    // A reader that is gone misses nothing.
    const flushed = new Promise<void>((resolve) => {
      this.#stream.flush(() => resolve());
    });
    await Promise.race([flushed, patience]);
    clearTimeout(timer);
  }
}
