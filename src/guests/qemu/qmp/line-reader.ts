/**
 * Cuts a byte stream into lines, with a bound on how much of an unfinished line is kept.
 *
 * Chunks are joined only when a line is complete, so that a long line (the list of all CPU models
 * has more than a hundred kilobytes) costs one copy and not one for each chunk.
 */

const LINE_FEED = 0x0a;

/** Joins chunks into lines. What a line means is the caller's business. */
export class LineReader {
  #chunks: Uint8Array[] = [];
  #pendingBytes = 0;
  #lineBytesMax: number;

  constructor(lineBytesMax: number) {
    this.#lineBytesMax = lineBytesMax;
  }

  /** Bytes of a line whose end has not come yet. */
  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  /** Changes the bound for what comes from now on. */
  set lineBytesMax(lineBytesMax: number) {
    this.#lineBytesMax = lineBytesMax;
  }

  /**
   * Takes the next bytes and hands every line that is now complete to `onLine`, without its line
   * feed and a carriage return before it.
   * @returns false when a line is longer than the bound; nothing after it can be trusted.
   */
  push(bytes: Uint8Array, onLine: (line: string) => void): boolean {
    let from = 0;
    for (;;) {
      const feed = bytes.indexOf(LINE_FEED, from);
      const partBytes = (feed < 0 ? bytes.length : feed) - from;
      if (this.#pendingBytes + partBytes > this.#lineBytesMax) return false;
      if (partBytes > 0) {
        // A copy: the caller may use its buffer again before the line is complete.
        this.#chunks.push(feed < 0 ? bytes.slice(from) : bytes.subarray(from, feed));
        this.#pendingBytes += partBytes;
      }
      if (feed < 0) return true;
      const line = Buffer.concat(this.#chunks).toString('utf8');
      this.clear();
      onLine(line.endsWith('\r') ? line.slice(0, -1) : line);
      from = feed + 1;
    }
  }

  /** Forgets an unfinished line. */
  clear(): void {
    this.#chunks = [];
    this.#pendingBytes = 0;
  }
}
