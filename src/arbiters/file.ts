/**
 * The register in a directory, on local or shared (NFS) storage.
 *
 * The change to generation g+1 is won by whoever links a finished, synced file to the name g+1:
 * link(2) is atomic on both, and fails with EEXIST for everyone else. The word is the file with
 * the highest number. Over NFS the answer to a link can be lost after the server made it; then
 * the link count of the temporary file tells, as open(2) advises under O_EXCL.
 *
 * Old generations are removed, but never the newest `GENERATIONS_KEPT`: a member that stood still
 * between reading g and linking g+1 must find that name taken. Should it have stood still for so
 * long that the name is free again, the directory read after the link shows newer generations and
 * the change counts as lost; its file is below the highest and means nothing.
 *
 * A change is on the path of every failover, so it waits for nothing that its answer does not need.
 * Needed are, in this order: the current word is read and the finished file is on the disk (a name may
 * never lead to half a word), the link, and the directory on the disk (what we act on must outlive a
 * power failure). Reading who is newest goes on beside the last; tidying up comes after the answer.
 *
 * All before the link can be done before it is needed: a member that waits for its own promises to run
 * out knows what it will ask for (`prepare`). The word that it read then is as good as one read later: a
 * word is never written to, and a newer one has taken the name that the link needs. Each call is
 * a trip through the thread pool, and on a busy host a trip costs more than the disk does.
 *
 * The directory must exist: making it would put a second register on the local disk of a host on
 * which the shared storage is not mounted.
 *
 * One request at a time. A call on storage that hangs cannot be taken back, so a request waits
 * for the earlier one, within its own bound; the number of hanging calls cannot grow.
 */
import { randomBytes } from 'node:crypto';
import { type FileHandle, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { assert } from '../base/assert.ts';
import { RomulusError } from '../base/errors.ts';
import { type RegisterWord, sameWord } from '../core/register.ts';
import { type Arbiter, ARBITER_TIMEOUT_MS, type CompareAndSetResult } from './arbiter.ts';
import { errnoOf, isAbandoned, linkOnce, readBounded, unlinkIfThere } from './file-steps.ts';
import {
  formatRegisterFile,
  generationOfName,
  parseRegisterFile,
  registerFileName,
} from './register-file.ts';

/** Newest generations that are never removed. */
export const GENERATIONS_KEPT = 64;
/** Times a file may vanish between listing and opening before that counts as out of reach. */
const READ_ATTEMPTS_MAX = 8;
/** Requests that may wait for storage that hangs; further ones fail at once. */
const REQUESTS_PENDING_MAX = 16;
const TEMPORARY_PREFIX = 'temporary-';

export interface FileArbiterOptions {
  readonly directory: string;
  readonly timeoutMs?: number;
  readonly generationsKept?: number;
}

/** What a change needs before its link; nobody else sees any of it. */
interface ReadiedChange {
  readonly content: string;
  /** The finished, synced file that holds it. */
  readonly path: string;
  /** The word as it stood. */
  readonly before: RegisterWord | null;
  /** To be synced after the link. */
  readonly directory: FileHandle;
}

/** The register as files named by generation. */
export class FileArbiter implements Arbiter {
  readonly name: string;
  readonly #directory: string;
  readonly #timeoutMs: number;
  readonly #generationsKept: number;
  /** Ends when the request before has ended, however long its storage hangs. */
  #previous: Promise<unknown> = Promise.resolve();
  #generationSeenMax = 0;
  /** What the request under way leaves to be done after its answer. */
  #afterwards: (() => Promise<void>)[] = [];
  /** One that was made beforehand and waits. */
  #readied: ReadiedChange | null = null;
  #pendingCount = 0;
  #pruneError: unknown = null;
  #closed = false;

  constructor(options: FileArbiterOptions) {
    this.name = `file:${options.directory}`;
    this.#directory = options.directory;
    this.#timeoutMs = options.timeoutMs ?? ARBITER_TIMEOUT_MS;
    this.#generationsKept = options.generationsKept ?? GENERATIONS_KEPT;
    assert(this.#generationsKept >= 2, 'the current and the previous generation must be kept');
  }

  async read(): Promise<RegisterWord | null> {
    return await this.#bounded('read', async () => await this.#readCurrent());
  }

  prepare(next: RegisterWord): void {
    if (this.#closed) return;
    const content = formatRegisterFile(next);
    if (this.#readied?.content === content) return;
    this.#bounded('prepare', async () => {
      await this.#dropReadied();
      const readied = await this.#makeReady(content);
      // On storage that hung for longer than closing waits.
      if (this.#closed) await putAway(readied);
      else this.#readied = readied;
    }).catch((error: unknown) => {
      // The change itself meets the same trouble, and tells its caller.
      this.#pruneError = error;
    });
  }

  async compareAndSet(
    expected: RegisterWord | null,
    next: RegisterWord,
  ): Promise<CompareAndSetResult> {
    assert(
      next.generation === (expected?.generation ?? 0) + 1,
      'every change of the word adds one to the generation',
    );
    return await this.#bounded('change', async (isLate) => {
      return await this.#change(expected, next, isLate);
    });
  }

  /** Why old generations could not be removed after the last change; null when they could. */
  get pruneError(): unknown {
    return this.#pruneError;
  }

  /** Waits for what is still to be tidied up, but not for storage that hangs. */
  async close(): Promise<void> {
    this.#closed = true;
    let timer: NodeJS.Timeout | undefined;
    const patience = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, this.#timeoutMs);
    });
    await Promise.race([this.#previous, patience]);
    clearTimeout(timer);
    await this.#dropReadied().catch((error: unknown) => {
      this.#pruneError = error;
    });
  }

  async #change(
    expected: RegisterWord | null,
    next: RegisterWord,
    isLate: () => boolean,
  ): Promise<CompareAndSetResult> {
    const content = formatRegisterFile(next);
    const readied = this.#readied?.content === content ? this.#readied : null;
    if (readied !== null) this.#readied = null;
    const { path, directory, ...read } = readied ?? (await this.#makeReady(content));
    this.#afterwards.push(() => putAway({ path, directory }));
    const before = sameWord(read.before, expected) ? read.before : await this.#readCurrent();
    if (!sameWord(before, expected)) return { won: false, word: before };
    // The caller was told that there was no answer: the fewer late changes, the better.
    if (isLate()) return { won: false, word: before };
    const linked = await linkOnce(path, this.#path(registerFileName(next.generation)));
    // Both end before what they work on is put away.
    const [newest, synced] = await Promise.allSettled([this.#highest(), directory.sync()]);
    const highest = valueOf(newest);
    valueOf(synced);
    // Ours and still the newest: then it is known what it holds.
    if (linked && highest === next.generation) {
      this.#generationSeenMax = highest;
      this.#afterwards.push(() => this.#tryPrune(next.generation));
      return { won: true, word: next };
    }
    return { won: false, word: await this.#readCurrent() };
  }

  async #makeReady(content: string): Promise<ReadiedChange> {
    const path = this.#path(`${TEMPORARY_PREFIX}${process.pid}-${randomBytes(8).toString('hex')}`);
    const [before, directory, written] = await Promise.allSettled([
      this.#readCurrent(),
      open(this.#directory, 'r'),
      this.#writeSynced(path, content),
    ]);
    try {
      valueOf(written);
      return { content, path, before: valueOf(before), directory: valueOf(directory) };
    } catch (error) {
      const opened = directory.status === 'fulfilled' ? directory.value : null;
      this.#afterwards.push(() => putAway({ path, directory: opened }));
      throw error;
    }
  }

  async #dropReadied(): Promise<void> {
    const readied = this.#readied;
    this.#readied = null;
    if (readied !== null) await putAway(readied);
  }

  async #writeSynced(path: string, content: string): Promise<void> {
    const file = await open(path, 'wx', 0o644);
    this.#afterwards.push(() => file.close());
    await file.writeFile(content);
    await file.sync();
  }

  async #readCurrent(): Promise<RegisterWord | null> {
    for (let attempt = 0; attempt < READ_ATTEMPTS_MAX; attempt += 1) {
      const highest = await this.#highest();
      if (highest === 0) return null;
      const path = this.#path(registerFileName(highest));
      const content = await readBounded(path);
      // Removed since the listing, so there are newer ones by now.
      if (content === null) continue;
      const word = parseRegisterFile(content, highest, path);
      this.#generationSeenMax = highest;
      return word;
    }
    throw new Error(`the directory changed ${READ_ATTEMPTS_MAX} times while it was read`);
  }

  /** The newest generation present, 0 when there is none. */
  async #highest(): Promise<number> {
    let highest = 0;
    for (const name of await readdir(this.#directory))
      highest = Math.max(highest, generationOfName(name) ?? 0);
    if (highest < this.#generationSeenMax) {
      // A stale listing of a network file system, or another directory under the same name.
      throw new Error(
        `generation ${this.#generationSeenMax} was here, now the highest is ${highest}`,
      );
    }
    return highest;
  }

  async #tidy(): Promise<void> {
    for (const step of this.#afterwards.splice(0)) {
      try {
        await step();
      } catch (error) {
        this.#pruneError = error;
      }
    }
  }

  async #tryPrune(current: number): Promise<void> {
    try {
      await this.#prune(current);
      this.#pruneError = null;
    } catch (error) {
      // The change is won all the same, and the next winner tries again.
      this.#pruneError = error;
    }
  }

  /** Removes what no member can need any more. */
  async #prune(current: number): Promise<void> {
    for (const name of await readdir(this.#directory)) {
      const generation = generationOfName(name);
      if (generation !== null && generation <= current - this.#generationsKept) {
        await unlinkIfThere(this.#path(name));
      }
      if (name.startsWith(TEMPORARY_PREFIX) && (await isAbandoned(this.#path(name)))) {
        await unlinkIfThere(this.#path(name));
      }
    }
  }

  async #bounded<T>(what: string, work: (isLate: () => boolean) => Promise<T>): Promise<T> {
    if (this.#closed) throw this.#unreachable(what, 'the arbiter was closed');
    if (this.#pendingCount >= REQUESTS_PENDING_MAX) {
      throw this.#unreachable(what, `${this.#pendingCount} earlier requests still hang`);
    }
    this.#pendingCount += 1;
    let late = false;
    const isLate = (): boolean => late;
    const previous = this.#previous;
    const run = (async (): Promise<T> => {
      await previous;
      if (late) throw this.#unreachable(what, 'an earlier request still hangs');
      return await work(isLate);
    })();
    // The next request waits for the end of this one, whichever it is, and for its tidying; its own
    // caller gets the result or the error from `run` itself.
    const settled = async (): Promise<void> => {
      await this.#tidy();
      this.#pendingCount -= 1;
    };
    this.#previous = run.then(settled, settled);
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => {
        late = true;
        reject(this.#unreachable(what, `no answer within ${this.#timeoutMs} ms`));
      }, this.#timeoutMs);
    });
    try {
      return await Promise.race([run, timeout]);
    } catch (error) {
      throw this.#asArbiterError(what, error);
    } finally {
      clearTimeout(timer);
    }
  }

  #asArbiterError(what: string, error: unknown): unknown {
    if (error instanceof RomulusError) return error;
    const code = errnoOf(error);
    if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') {
      return new RomulusError(
        'ERR_ARBITER_PERMISSION',
        `not allowed to ${what} the register in ${this.#directory} (${code})`,
        {
          remedy:
            "Give the node's user read and write access to the directory, on storage with hard links.",
          cause: error,
          details: { directory: this.#directory, reason: code },
        },
      );
    }
    const reason = error instanceof Error ? error.message : String(error);
    return this.#unreachable(what, reason, error);
  }

  #unreachable(what: string, reason: string, cause?: unknown): RomulusError {
    return new RomulusError(
      'ERR_ARBITER_UNREACHABLE',
      `cannot ${what} the register in ${this.#directory}: ${reason}`,
      {
        remedy:
          'Check that the directory exists and that the storage it is on is mounted and answers.',
        ...(cause === undefined ? {} : { cause }),
        details: { directory: this.#directory, reason },
      },
    );
  }

  #path(name: string): string {
    return join(this.#directory, name);
  }
}

/** Removes the temporary name and closes the directory. */
async function putAway(change: {
  readonly path: string;
  readonly directory: FileHandle | null;
}): Promise<void> {
  await change.directory?.close();
  await unlinkIfThere(change.path);
}

function valueOf<T>(settled: PromiseSettledResult<T>): T {
  if (settled.status === 'fulfilled') return settled.value;
  throw settled.reason;
}
