/**
 * Which QEMU to run: the system's (installed if it is not there and we may), or another version beside
 * it, unpacked into the cache from another suite of Debian and started through its own dynamic loader.
 *
 * A process of such a QEMU has the loader's name, not QEMU's.
 */
import { existsSync } from 'node:fs';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { RomulusError } from '../../base/errors.ts';
import { cached } from './cache.ts';
import { runHelper } from './command.ts';
import { installPackages, isRoot, type Say, unpackForeignPackage } from './debian.ts';
import { programPath } from './tools.ts';

const SYSTEM_BINARY = 'qemu-system-x86_64';
const PACKAGE = 'qemu-system-x86';
const LIBRARIES = 'usr/lib/x86_64-linux-gnu';

/** Raised when this file unpacks the same version in another way. */
const RECIPE = 2;

/** Versions that can be had beside the system's, and the suite that has each. */
export const QEMU_VERSIONS = { '10.0': 'trixie', '11.1': 'sid' } as const;
export type QemuVersion = keyof typeof QEMU_VERSIONS;

/** Where the system's QEMU is, or null. */
export function systemQemu(): string | null {
  return programPath(SYSTEM_BINARY);
}

/**
 * The system's QEMU, installed with apt if it is missing and we are root.
 * @throws {RomulusError} ERR_HOST_QEMU_MISSING, ERR_HOST_PACKAGES
 */
export async function ensureQemu(say: Say = () => undefined): Promise<string> {
  const found = systemQemu();
  if (found !== null) return found;
  if (!isRoot() || !existsSync('/usr/bin/apt-get'))
    throw new RomulusError('ERR_HOST_QEMU_MISSING', `${SYSTEM_BINARY} is not installed`, {
      remedy: `Run \`apt-get install ${PACKAGE}\` as root.`,
    });
  await installPackages([PACKAGE], say);
  const installed = systemQemu();
  if (installed === null)
    throw new RomulusError('ERR_HOST_QEMU_MISSING', `${PACKAGE} brought no ${SYSTEM_BINARY}`, {
      remedy: `Put the folder of ${SYSTEM_BINARY} into PATH.`,
    });
  return installed;
}

async function makeForeign(draft: string, suite: string, say: Say): Promise<void> {
  const root = join(draft, 'root');
  await mkdir(root);
  await unpackForeignPackage(suite, PACKAGE, root, say);
  await writeFile(
    join(draft, SYSTEM_BINARY),
    [
      '#!/bin/sh',
      'root="$(dirname "$(readlink -f "$0")")/root"',
      `libraries="$root/${LIBRARIES}"`,
      'export QEMU_MODULE_DIR="$libraries/qemu"',
      // Its firmware, too: by itself it would look where the system's is.
      'firmware="-L $root/usr/share/qemu -L $root/usr/share/seabios -L $root/usr/lib/ipxe/qemu"',
      `exec "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" "$root/usr/bin/${SYSTEM_BINARY}" $firmware "$@"`,
      '',
    ].join('\n'),
  );
  await chmod(join(draft, SYSTEM_BINARY), 0o755);
}

/** What a QEMU says of its version, as `major.minor`. */
export async function versionOf(binary: string): Promise<string> {
  const text = await runHelper(binary, ['--version']);
  return /version (\d+\.\d+)/.exec(text)?.[1] ?? 'unknown';
}

function isKnown(version: string): version is QemuVersion {
  return Object.hasOwn(QEMU_VERSIONS, version);
}

/**
 * A program that runs QEMU of that version, unpacked if it is not in the cache; `system` is the
 * system's.
 * @throws {RomulusError} ERR_USAGE_QEMU_VERSION, ERR_HOST_PACKAGES, ERR_HOST_QEMU_VERSION when the
 *   suite has moved on to another version.
 */
export async function qemuOfVersion(version: string, say: Say = () => undefined): Promise<string> {
  if (version === 'system') return ensureQemu(say);
  if (!isKnown(version))
    throw new RomulusError('ERR_USAGE_QEMU_VERSION', `no QEMU ${version} is known here`, {
      remedy: `Ask for one of ${Object.keys(QEMU_VERSIONS).join(', ')}, or name a binary.`,
    });
  const suite = QEMU_VERSIONS[version];
  const folder = await cached(`qemu-${RECIPE}-${version}`, async (draft) => {
    await makeForeign(draft, suite, say);
    const found = await versionOf(join(draft, SYSTEM_BINARY));
    if (found !== version)
      throw new RomulusError(
        'ERR_HOST_QEMU_VERSION',
        `${suite} has QEMU ${found} now, not ${version}`,
        {
          remedy: 'Correct the table of versions in src/drill/qemu/qemu-versions.ts.',
        },
      );
  });
  return join(folder, SYSTEM_BINARY);
}
