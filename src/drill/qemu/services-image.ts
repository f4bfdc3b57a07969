/**
 * The test guest with services (`test-guest/services/`): the plain guest, and behind its root file
 * system a second archive with our servers and the redis of this host with the libraries that it
 * needs. The kernel unpacks both, one after the other. (Debian's cloud kernel has ext4 built in.)
 */
import { createHash } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { RomulusError } from '../../base/errors.ts';
import { cached } from './cache.ts';
import { runHelper } from './command.ts';
import { type CpioEntry, cpioArchive, MODE_FILE, MODE_FOLDER, MODE_PROGRAM } from './cpio.ts';
import type { Say } from './debian.ts';
import { compileFolder, type GuestImage, VIRTIO_MODULES } from './guest-image.ts';
import { ensureTools } from './tools.ts';

/** Raised when this file makes another image of the same parts. */
const RECIPE = 1;
/** What a disk and a card need. */
const MODULES = VIRTIO_MODULES.filter((name) => name !== 'virtio_balloon');
/** Debian has one program for the server and the tools that check its files; its name decides. */
const REDIS_IN_GUEST = 'bin/redis-server';

/** The program's libraries and its loader, by absolute path. */
async function librariesOf(program: string): Promise<string[]> {
  const listed = await runHelper('ldd', [program]);
  const paths = listed
    .split('\n')
    .map((line) => /(?:=> |^\s*)(\/\S+) \(0x/.exec(line)?.[1])
    .filter((path) => path !== undefined);
  if (paths.length > 0) return [...new Set(paths)].sort();
  throw new RomulusError('ERR_HOST_HELPER', `ldd told no libraries of ${program}`, {
    remedy: `Run \`ldd ${program}\`; the package of redis-tools of Debian is wanted.`,
  });
}

/** A folder before what is in it. */
function foldersOf(paths: readonly string[]): CpioEntry[] {
  const folders = new Set<string>();
  for (const path of paths)
    for (let folder = dirname(path); folder !== '/'; folder = dirname(folder))
      folders.add(folder.slice(1));
  return [...folders].sort().map((name) => ({ name, mode: MODE_FOLDER }));
}

/**
 * The test guest with services, built if it is not in the cache; redis is installed if it is missing.
 * @throws {RomulusError} ERR_HOST_PACKAGES, ERR_HOST_HELPER
 */
export async function servicesImage(plain: GuestImage, say: Say): Promise<GuestImage> {
  const tools = await ensureTools(['redis-check-rdb'], say);
  const redis = tools['redis-check-rdb'];
  const libraries = await librariesOf(redis);
  const files = await Promise.all(
    [redis, ...libraries].map(async (path) => ({ path, data: await readFile(path) })),
  );
  const hash = createHash('sha256').update(`recipe ${RECIPE}\n`);
  for (const { path, data } of files) hash.update(`${path}\n`).update(data);
  // The plain image's folder is named after all our sources, those of the services among them.
  const name = `${basename(dirname(plain.initrd))}-services-${hash.digest('hex').slice(0, 16)}`;
  const folder = await cached(name, async (draft) => {
    say('adding services to the test guest');
    const layer = cpioArchive([
      ...foldersOf(libraries),
      ...(await compileFolder('services', draft)),
      {
        name: 'services/modules',
        mode: MODE_FILE,
        data: Buffer.from(MODULES.map((name) => `${name}\n`).join('')),
      },
      ...files.map(({ path, data }) => ({
        name: path === redis ? REDIS_IN_GUEST : path.slice(1),
        mode: MODE_PROGRAM,
        data,
      })),
    ]);
    await writeFile(join(draft, 'initrd'), Buffer.concat([await readFile(plain.initrd), layer]));
  });
  return { ...plain, initrd: join(folder, 'initrd') };
}
