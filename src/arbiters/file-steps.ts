/** Single steps in the register's directory, each right when it is repeated or another was faster. */
import { link, open, stat, unlink } from 'node:fs/promises';
import { REGISTER_FILE_BYTES_MAX } from './register-file.ts';

/** A temporary file this old was left by a process that died, milliseconds. */
export const TEMPORARY_FILE_AGE_MS_MAX: number = 60 * 60 * 1000;

/** True when this call gave the file its second name. */
export async function linkOnce(temporary: string, name: string): Promise<boolean> {
  try {
    await link(temporary, name);
    return true;
  } catch (error) {
    // The count of names is the truth: on NFS a repeated request reports EEXIST, or an error, for a
    // link that the first one made.
    if ((await stat(temporary)).nlink === 2) return true;
    if (errnoOf(error) === 'EEXIST') return false;
    throw error;
  }
}

/** The content of a file, or null when it is not there any more. */
export async function readBounded(path: string): Promise<string | null> {
  let file;
  try {
    file = await open(path, 'r');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw error;
  }
  try {
    const buffer = Buffer.alloc(REGISTER_FILE_BYTES_MAX);
    const { bytesRead } = await file.read(buffer, 0, buffer.byteLength, 0);
    return buffer.toString('utf8', 0, bytesRead);
  } finally {
    await file.close();
  }
}

/** True when a file was last written to so long ago that its writer must be gone. */
export async function isAbandoned(path: string): Promise<boolean> {
  try {
    return Date.now() - (await stat(path)).mtimeMs > TEMPORARY_FILE_AGE_MS_MAX;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
}

/** Removes a name, unless it is gone already. */
export async function unlinkIfThere(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
  }
}

/** The system's name of an error: `ENOENT`. */
export function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error ? String(error.code) : undefined;
}
