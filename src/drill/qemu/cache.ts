/**
 * Things that are made once and kept: the test guest, other versions of QEMU. Each is a folder whose
 * name holds what it was made from; it appears whole or not at all, and two makers at once do not
 * disturb each other (the second's work is thrown away).
 */
import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** `$XDG_CACHE_HOME/romulus`, or `~/.cache/romulus`. */
export function cacheDirectory(): string {
  const given = process.env['XDG_CACHE_HOME'];
  return join(given === undefined || given === '' ? join(homedir(), '.cache') : given, 'romulus');
}

function isTaken(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code;
  return code === 'ENOTEMPTY' || code === 'EEXIST';
}

/** The folder of that name in the cache, made by `make` (in a draft folder) if it is not there yet. */
export async function cached(
  name: string,
  make: (draft: string) => Promise<void>,
): Promise<string> {
  const folder = join(cacheDirectory(), name);
  if (existsSync(folder)) return folder;
  await mkdir(cacheDirectory(), { recursive: true });
  const draft = await mkdtemp(`${folder}.draft-`);
  try {
    await make(draft);
    await chmod(draft, 0o755);
    await rename(draft, folder);
  } catch (error) {
    await rm(draft, { recursive: true, force: true });
    if (!isTaken(error)) throw error;
  }
  return folder;
}
