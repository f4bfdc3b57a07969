/**
 * Programs of the host that a drill uses beside QEMU: where they are, and the packages that bring
 * those that are missing.
 */
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { RomulusError } from '../../base/errors.ts';
import { installPackages, type Say } from './debian.ts';

/** Where programs for root are, which are not in every user's PATH. */
const MORE_FOLDERS = ['/usr/sbin', '/sbin'];

/** Programs and the Debian package of each. */
export const TOOL_PACKAGES = {
  ip: 'iproute2',
  ping: 'iputils-ping',
  'redis-check-rdb': 'redis-tools',
  'redis-benchmark': 'redis-tools',
  mke2fs: 'e2fsprogs',
  e2fsck: 'e2fsprogs',
  debugfs: 'e2fsprogs',
} as const;
export type Tool = keyof typeof TOOL_PACKAGES;

/** Where a program is, or null. */
export function programPath(name: string): string | null {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), ...MORE_FOLDERS];
  const paths = folders.filter((folder) => folder !== '').map((folder) => join(folder, name));
  return paths.find((path) => existsSync(path)) ?? null;
}

/**
 * Where each of the tools is; those that are missing are installed, where we may.
 * @throws {RomulusError} ERR_HOST_PACKAGES
 */
export async function ensureTools<Name extends Tool>(
  tools: readonly Name[],
  say: Say,
): Promise<Record<Name, string>> {
  const missing = tools.filter((tool) => programPath(tool) === null);
  if (missing.length > 0)
    await installPackages([...new Set(missing.map((tool) => TOOL_PACKAGES[tool]))], say);
  return Object.fromEntries(tools.map((tool) => [tool, required(tool)])) as Record<Name, string>;
}

function required(tool: Tool): string {
  const path = programPath(tool);
  if (path !== null) return path;
  throw new RomulusError('ERR_HOST_PACKAGES', `${TOOL_PACKAGES[tool]} brought no ${tool}`, {
    remedy: `Put the folder of ${tool} into PATH.`,
  });
}
