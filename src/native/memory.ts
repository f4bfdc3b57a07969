/**
 * A shared mapping of a memory object: a machine's RAM, or the backup's image of it.
 *
 * Holes stay holes: `read`, `compare` and captures never allocate pages that nobody wrote. A
 * mapping lives until its last native user (a capture, a page store) lets go, so `close` is always
 * safe. A Memory belongs to the thread that made it; another thread maps the same `fd` anew.
 * It does not coordinate writers: whoever maps the same object shares its bytes.
 */
import { loadNative } from './load.ts';
import { callNative, rethrowNative } from './native-error.ts';

/** The native object behind a Memory, opaque to TypeScript. */
export interface MemoryHandle {
  readonly memoryHandle: never;
}

interface MemoryNative {
  memoryCreate(name: string, bytes: number, hugePageBytes?: number): MemoryHandle;
  memoryMapPath(path: string, bytes: number, writable: boolean): MemoryHandle;
  memoryMapFd(fd: number, bytes: number, writable: boolean): MemoryHandle;
  memoryFd(handle: MemoryHandle): number;
  memoryAddress(handle: MemoryHandle): bigint;
  memoryRead(handle: MemoryHandle, offset: number, length: number): Buffer;
  memoryWrite(handle: MemoryHandle, offset: number, data: Uint8Array): void;
  memoryAllocate(handle: MemoryHandle): Promise<void>;
  memoryPopulatedBytes(handle: MemoryHandle): number;
  memoryCompare(handle: MemoryHandle, other: MemoryHandle): number;
  memoryClose(handle: MemoryHandle): void;
}

export interface MemoryCreateOptions {
  /** Shown in /proc/PID/maps. */
  readonly name: string;
  /** A multiple of 4096, at most 16 TiB. */
  readonly bytes: number;
  /** Of huge pages of this size; of ordinary pages when left out. */
  readonly hugePageBytes?: number;
}

export type MemoryMapOptions = {
  readonly bytes: number;
  readonly writable: boolean;
} & (
  | { readonly path: string; readonly fd?: never }
  | { readonly fd: number; readonly path?: never }
);

/** A mapped memory object of a fixed size. */
export class Memory {
  readonly #native: MemoryNative;
  readonly #handle: MemoryHandle;
  readonly bytes: number;
  readonly writable: boolean;
  /** The object's descriptor; valid until `close`, for others to map or to pass on. */
  readonly fd: number;
  /** Where it is mapped in this process; only while this Memory is reachable and open. */
  readonly address: bigint;

  private constructor(
    native: MemoryNative,
    handle: MemoryHandle,
    bytes: number,
    writable: boolean,
  ) {
    this.#native = native;
    this.#handle = handle;
    this.bytes = bytes;
    this.writable = writable;
    this.fd = native.memoryFd(handle);
    this.address = native.memoryAddress(handle);
  }

  /**
   * A new memory of zeros (a memfd whose size is sealed).
   * @throws {RomulusError} ERR_USAGE_MEMORY_SIZE, ERR_HOST_MEMORY_CREATE, ERR_HOST_MEMORY_MAP
   */
  static create(options: MemoryCreateOptions): Memory {
    const native = loadNative<MemoryNative>();
    const { name, bytes, hugePageBytes } = options;
    const handle = callNative(() => native.memoryCreate(name, bytes, hugePageBytes));
    return new Memory(native, handle, bytes, true);
  }

  /**
   * Maps an existing memory object; a descriptor is duplicated, the caller keeps its own.
   * @throws {RomulusError} ERR_USAGE_MEMORY_SIZE, ERR_HOST_MEMORY_MAP, ERR_HOST_MEMORY_SIZE when
   *   the object is smaller than asked for.
   */
  static map(options: MemoryMapOptions): Memory {
    const native = loadNative<MemoryNative>();
    const { bytes, writable } = options;
    const handle = callNative(() =>
      options.path === undefined
        ? native.memoryMapFd(options.fd, bytes, writable)
        : native.memoryMapPath(options.path, bytes, writable),
    );
    return new Memory(native, handle, bytes, writable);
  }

  /** For the wrappers of other native areas (capture, page store, oracle). */
  get handle(): MemoryHandle {
    return this.#handle;
  }

  /**
   * A copy of `length` bytes from `offset`.
   * @throws {RomulusError} ERR_USAGE_RANGE, ERR_LIMIT_READ above 1 GiB, ERR_USAGE_CLOSED
   */
  read(offset: number, length: number): Buffer {
    return callNative(() => this.#native.memoryRead(this.#handle, offset, length));
  }

  /**
   * Writes through this mapping, so a tracker of this process sees it.
   * @throws {RomulusError} ERR_USAGE_RANGE, ERR_USAGE_READ_ONLY, ERR_USAGE_CLOSED
   */
  write(offset: number, data: Uint8Array): void {
    callNative(() => this.#native.memoryWrite(this.#handle, offset, data));
  }

  /**
   * Takes all of its pages, in a thread of the pool: whoever touches one later finds it, however full
   * the place is by then. What was taken in vain goes when the memory is closed.
   * @throws {RomulusError} ERR_HOST_SPACE; ERR_HOST_MEMORY_CREATE where the file system cannot do it.
   */
  async allocate(): Promise<void> {
    await callNative(() => this.#native.memoryAllocate(this.#handle)).catch(rethrowNative);
  }

  /** How many bytes of memory the object takes: pages that were ever written. */
  populatedBytes(): number {
    return callNative(() => this.#native.memoryPopulatedBytes(this.#handle));
  }

  /** The index of the first page that differs from the other memory, -1 when they are equal. */
  compare(other: Memory): number {
    return callNative(() => this.#native.memoryCompare(this.#handle, other.handle));
  }

  /** Lets go of the mapping. Idempotent. */
  close(): void {
    callNative(() => this.#native.memoryClose(this.#handle));
  }
}
