/** System calls on descriptors that Node has no way to. */
import type { Socket } from 'node:net';
import { loadNative } from './load.ts';
import { callNative } from './native-error.ts';

interface DescriptorsNative {
  duplicateDescriptor(fd: number): number;
  listenAtPath(path: string): number;
  closeDescriptor(fd: number): void;
  shutDownSocket(fd: number): void;
  sendDescriptor(socket: number, bytes: Uint8Array, descriptor: number): void;
  readRest(fd: number, bytesMax: number): Buffer;
  punchHole(fd: number, offset: number, byteCount: number): boolean;
  adviseReadOnce(fd: number): void;
  adviseNoReadahead(fd: number): void;
  forgetCached(fd: number, offset: number, bytes: number): void;
  nextData(fd: number, offset: number): number;
}

/** A socket's descriptor, which stays the socket's; -1 when it has none (any more). */
export function descriptorOf(socket: Socket): number {
  // Node has no public way to it; libuv's handle carries it.
  const { _handle: handle } = socket as unknown as { _handle?: { fd?: unknown } | null };
  return typeof handle?.fd === 'number' ? handle.fd : -1;
}

/**
 * A second descriptor for the same open file or socket, to be closed by `closeDuplicate`.
 * @throws {RomulusError} ERR_HOST_DESCRIPTOR.
 */
export function duplicate(fd: number): number {
  return callNative(() => loadNative<DescriptorsNative>().duplicateDescriptor(fd));
}

/**
 * A unix socket that listens at a path which only this user may connect to, and from which nobody
 * accepts here: it is for another process. To be closed by `closeDuplicate`; the path stays.
 * @throws {RomulusError} ERR_HOST_DESCRIPTOR.
 */
export function listenAtPath(path: string): number {
  return callNative(() => loadNative<DescriptorsNative>().listenAtPath(path));
}

/** Closes what `duplicate` or `listenAtPath` gave; on any thread, whichever made it. */
export function closeDuplicate(fd: number): void {
  callNative(() => {
    loadNative<DescriptorsNative>().closeDescriptor(fd);
  });
}

/** Ends a connection in both directions, whoever else has descriptors of it. Done before: nothing. */
export function shutDown(fd: number): void {
  callNative(() => {
    loadNative<DescriptorsNative>().shutDownSocket(fd);
  });
}

/** What came over a connection and nobody read, without waiting for more; of one that failed, too. */
export function readRest(fd: number, bytesMax: number): Buffer {
  return callNative(() => loadNative<DescriptorsNative>().readRest(fd, bytesMax));
}

/**
 * Makes a stretch of a file read as zeros and take no room.
 * @returns false where the file cannot have holes: write zeros then.
 * @throws {RomulusError} ERR_HOST_DESCRIPTOR with `details.errno`.
 */
export function punchHole(fd: number, offset: number, byteCount: number): boolean {
  return callNative(() => loadNative<DescriptorsNative>().punchHole(fd, offset, byteCount));
}

/**
 * A file will be read once, from its beginning to its end: what is read need not push out of memory what
 * others read again and again. Advice only (posix_fadvise(2), heeded since Linux 6.3).
 */
export function adviseReadOnce(fd: number): void {
  callNative(() => {
    loadNative<DescriptorsNative>().adviseReadOnce(fd);
  });
}

/** Advice that only what is asked for is read, and nothing ahead of it. */
export function adviseNoReadahead(fd: number): void {
  callNative(() => {
    loadNative<DescriptorsNative>().adviseNoReadahead(fd);
  });
}

/** What the kernel keeps in memory of the pages of these bytes is given up, so that they are read anew. */
export function forgetCached(fd: number, offset: number, bytes: number): void {
  callNative(() => {
    loadNative<DescriptorsNative>().forgetCached(fd, offset, bytes);
  });
}

/**
 * Where a file's next bytes are that are no hole, from an offset on; null when there are none. The
 * offset itself where the file's system does not tell. Moves the descriptor's position.
 */
export function nextData(fd: number, offset: number): number | null {
  const data = callNative(() => loadNative<DescriptorsNative>().nextData(fd, offset));
  return data < 0 ? null : data;
}

/**
 * Writes bytes to a connected unix socket and passes a descriptor with them. The caller keeps its
 * own; nothing else may be waiting to be written to the socket.
 * @throws {RomulusError} ERR_HOST_SEND_DESCRIPTOR when not all of it could be written at once.
 */
export function sendDescriptor(socket: number, bytes: Uint8Array, descriptor: number): void {
  callNative(() => loadNative<DescriptorsNative>().sendDescriptor(socket, bytes, descriptor));
}
