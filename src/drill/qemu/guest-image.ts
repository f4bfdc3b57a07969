/**
 * Builds the test guest (`test-guest/`, described there) and keeps it in the cache: Debian's cloud
 * kernel, and a first root file system of busybox, our programs and, when asked for, kernel modules.
 * The kernel and busybox are downloaded once per release of the host; what is made of our own
 * sources is made anew when they change, in about two seconds.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { copyFile, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { RomulusError } from '../../base/errors.ts';
import { cached } from './cache.ts';
import { runHelper } from './command.ts';
import {
  type CpioEntry,
  cpioArchive,
  MODE_CHARACTER_DEVICE,
  MODE_FILE,
  MODE_FOLDER,
  MODE_PROGRAM,
} from './cpio.ts';
import { type Say, unpackSystemPackages } from './debian.ts';

/** Where the sources of the guest are. */
export const GUEST_SOURCES: string = fileURLToPath(
  new URL('../../../test-guest/', import.meta.url),
);
/** Raised when this file makes another image of the same sources. */
const RECIPE = 2;
const KERNEL_PACKAGE = 'linux-image-cloud-amd64';
const COMPILER_FLAGS = ['-O2', '-static', '-Wall', '-Wextra', '-Werror', '-std=gnu17'];

const BARE_FLAGS = [
  '-m32',
  '-ffreestanding',
  '-nostdlib',
  '-static',
  '-no-pie',
  '-fno-pic',
  '-Wl,--build-id=none',
];

/** Files that QEMU needs to start the guest. */
export interface GuestImage {
  readonly kernel: string;
  readonly initrd: string;
  /** A machine without any system, for a KVM that cannot boot a kernel (`-kernel`, nothing else). */
  readonly bare: string;
}

/** Modules for virtio, in the order in which they must be loaded. */
export const VIRTIO_MODULES = [
  'virtio_ring',
  'virtio',
  'virtio_pci_legacy_dev',
  'virtio_pci_modern_dev',
  'virtio_pci',
  'failover',
  'net_failover',
  'virtio_net',
  'virtio_blk',
  'virtio_balloon',
] as const;

async function makeBasis(draft: string, say: Say): Promise<void> {
  const root = join(draft, 'root');
  await mkdir(root);
  await unpackSystemPackages({ metas: [KERNEL_PACKAGE], packages: ['busybox-static'] }, root, say);
  const kernel = (await readdir(join(root, 'boot'))).find((name) => name.startsWith('vmlinuz-'));
  if (kernel === undefined) throw new RangeError(`no kernel in the package of ${KERNEL_PACKAGE}`);
  await copyFile(join(root, 'boot', kernel), join(draft, 'vmlinuz'));
  await copyFile(join(root, 'bin', 'busybox'), join(draft, 'busybox'));
  await mkdir(join(draft, 'modules'));
  const files = await readdir(join(root, 'lib', 'modules'), { recursive: true });
  for (const module of VIRTIO_MODULES) {
    const found = files.find((path) => path.endsWith(`/${module}.ko`));
    // Built into the kernel in some releases.
    if (found !== undefined)
      await copyFile(join(root, 'lib', 'modules', found), join(draft, 'modules', `${module}.ko`));
  }
  await rm(root, { recursive: true });
}

/** The folder of the guest's sources as it is in the guest: C programs compiled, the rest as it is. */
export async function compileFolder(folder: string, draft: string): Promise<CpioEntry[]> {
  const entries: CpioEntry[] = [{ name: folder, mode: MODE_FOLDER }];
  const files = await readdir(join(GUEST_SOURCES, folder), { withFileTypes: true });
  for (const file of files.sort((left, right) => (left.name < right.name ? -1 : 1))) {
    const name = `${folder}/${file.name}`;
    if (file.isDirectory()) {
      entries.push(...(await compileFolder(name, draft)));
      continue;
    }
    if (name.endsWith('.h')) continue;
    const source = join(GUEST_SOURCES, name);
    if (!name.endsWith('.c')) {
      entries.push({ name, mode: MODE_PROGRAM, data: await readFile(source) });
      continue;
    }
    const program = join(draft, 'program');
    await runHelper('cc', [...COMPILER_FLAGS, '-o', program, source]);
    entries.push({ name: name.slice(0, -2), mode: MODE_PROGRAM, data: await readFile(program) });
    await rm(program);
  }
  return entries;
}

async function makeImage(draft: string, basis: string, say: Say): Promise<void> {
  say('compiling the programs of the test guest');
  const modules = (await readdir(join(basis, 'modules'))).sort();
  const entries: CpioEntry[] = [
    ...['bin', 'dev', 'modules'].map((name) => ({ name, mode: MODE_FOLDER })),
    { name: 'dev/console', mode: MODE_CHARACTER_DEVICE, device: [5, 1] },
    { name: 'bin/busybox', mode: MODE_PROGRAM, data: await readFile(join(basis, 'busybox')) },
    { name: 'init', mode: MODE_PROGRAM, data: await readFile(join(GUEST_SOURCES, 'init')) },
    ...(await compileFolder('programs', draft)),
  ];
  for (const name of modules)
    entries.push({
      name: `modules/${name}`,
      mode: MODE_FILE,
      data: await readFile(join(basis, 'modules', name)),
    });
  await writeFile(join(draft, 'initrd'), cpioArchive(entries));
  const script = join(GUEST_SOURCES, 'bare', 'bare.ld');
  await runHelper('cc', [
    ...BARE_FLAGS,
    `-Wl,-T,${script}`,
    '-o',
    join(draft, 'bare'),
    join(GUEST_SOURCES, 'bare', 'bare.S'),
  ]);
}

function release(): string {
  const text = readFileSync('/etc/os-release', 'utf8');
  return /^VERSION_CODENAME=(\w+)/m.exec(text)?.[1] ?? 'unknown';
}

/** A name for everything that goes into the image but the packages. */
function sourcesHash(): string {
  const hash = createHash('sha256').update(`recipe ${RECIPE}\n`);
  const paths = readdirSync(GUEST_SOURCES, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name !== 'README.md')
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
  for (const path of paths)
    hash.update(`${path.slice(GUEST_SOURCES.length)}\n`).update(readFileSync(path));
  return hash.digest('hex').slice(0, 16);
}

/**
 * The test guest, built if it is not in the cache.
 * @throws {RomulusError} ERR_HOST_PACKAGES, ERR_HOST_DEBIAN, ERR_HOST_HELPER (no compiler),
 *   ERR_HOST_ARCHITECTURE.
 */
export async function guestImage(say: Say = () => undefined): Promise<GuestImage> {
  if (process.arch !== 'x64')
    throw new RomulusError(
      'ERR_HOST_ARCHITECTURE',
      `the test guest is for x86-64, this is ${process.arch}`,
      {
        remedy: 'Run this on an x86-64 host.',
      },
    );
  const name = release();
  const basis = await cached(`guest-basis-${RECIPE}-${name}`, (draft) => makeBasis(draft, say));
  const folder = await cached(`guest-${name}-${sourcesHash()}`, (draft) =>
    makeImage(draft, basis, say),
  );
  return {
    kernel: join(basis, 'vmlinuz'),
    initrd: join(folder, 'initrd'),
    bare: join(folder, 'bare'),
  };
}
