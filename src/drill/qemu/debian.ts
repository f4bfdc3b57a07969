/**
 * Packages of Debian, unpacked into a folder without installing them, as any user.
 *
 * Two sources: the system's own apt with its lists, and a private apt tree for another suite (its own
 * state, cache and sources beside the system's, which is not touched). In a private tree the status
 * file is empty, so that whole sets of packages with all they need are downloaded.
 */
import { existsSync } from 'node:fs';
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { RomulusError } from '../../base/errors.ts';
import { runHelper } from './command.ts';

const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';

const LISTS_LOCK = '/run/lock/romulus-apt-lists';
/** Another installation may be under way. */
const DPKG_LOCK = 'DPkg::Lock::Timeout=120';

/** Tells how long work goes on. */
export type Say = (text: string) => void;

export function isRoot(): boolean {
  return process.getuid?.() === 0;
}

/** @throws {RomulusError} ERR_HOST_DEBIAN where there is no apt. */
export function requireApt(wanted: string): void {
  if (existsSync('/usr/bin/apt-get') && existsSync('/usr/bin/dpkg')) return;
  throw new RomulusError(
    'ERR_HOST_DEBIAN',
    `${wanted} comes from Debian packages, and apt is not here`,
    {
      remedy: 'Use a Debian host (or a debian:bookworm container) for this.',
    },
  );
}

/** Where this system gets Debian from: other suites are there too. */
async function systemMirror(): Promise<string> {
  let mirror = await listedMirror();
  if (mirror === null && isRoot()) {
    await updateLists();
    mirror = await listedMirror();
  }
  if (mirror !== null) return mirror;
  throw new RomulusError('ERR_HOST_PACKAGES', 'apt has no lists of a Debian mirror', {
    remedy: 'Run `apt-get update` as root.',
  });
}

async function listedMirror(): Promise<string | null> {
  const format = '$(LABEL) $(REPO_URI)';
  const targets = ['indextargets', '--format', format, 'Created-By: Packages'];
  const listed = await runHelper('apt-get', targets);
  return /^Debian (\S+)$/m.exec(listed)?.[1] ?? null;
}

/** apt refuses to fetch its lists twice at a time, and several test processes may begin together. */
export async function updateLists(): Promise<void> {
  await runHelper('flock', [LISTS_LOCK, 'apt-get', '-q', 'update']);
}

/**
 * Installs packages of the running system with apt.
 * @throws {RomulusError} ERR_HOST_PACKAGES when we are not root, there is no apt, or it fails.
 */
export async function installPackages(packages: readonly string[], say: Say): Promise<void> {
  const names = packages.join(' ');
  const cannot = (why: string, cause?: unknown): RomulusError =>
    new RomulusError('ERR_HOST_PACKAGES', `cannot install ${names}: ${why}`, {
      remedy: `Run \`apt-get install ${names}\` as root.`,
      ...(cause === undefined ? {} : { cause }),
    });
  if (!isRoot()) throw cannot('only root may');
  if (!existsSync('/usr/bin/apt-get')) throw cannot('there is no apt');
  const env = { DEBIAN_FRONTEND: 'noninteractive' };
  try {
    say(`installing ${names} with apt`);
    await updateLists();
    await runHelper(
      'apt-get',
      ['-qy', '-o', DPKG_LOCK, '--no-install-recommends', 'install', ...packages],
      { env },
    );
  } catch (cause) {
    throw cannot(cause instanceof Error ? cause.message : String(cause), cause);
  }
}

async function unpackAll(packages: string, root: string): Promise<void> {
  const names = (await readdir(packages)).filter((name) => name.endsWith('.deb')).sort();
  for (const name of names) await runHelper('dpkg', ['-x', join(packages, name), root]);
}

/** The package that a meta package stands for: the first that it depends on. */
async function realPackage(meta: string): Promise<string> {
  const text = await runHelper('apt-cache', ['show', '--no-all-versions', meta]);
  const match = /^Depends: ([a-z0-9][a-z0-9.+-]*)/m.exec(text);
  if (match?.[1] === undefined) throw new RangeError(`${meta} depends on nothing`);
  return match[1];
}

/**
 * Downloads packages of the running system's suite and unpacks them into `root`. Where apt has no
 * lists and we are root, they are fetched first.
 * @throws {RomulusError} ERR_HOST_PACKAGES
 */
export async function unpackSystemPackages(
  wanted: { readonly metas: readonly string[]; readonly packages: readonly string[] },
  root: string,
  say: Say,
): Promise<void> {
  const names = [...wanted.metas, ...wanted.packages];
  requireApt(names.join(' and '));
  const downloads = join(root, '.packages');
  await mkdir(downloads, { recursive: true });
  const download = async (): Promise<void> => {
    const real = await Promise.all(wanted.metas.map(realPackage));
    const list = [...real, ...wanted.packages];
    say(`downloading ${list.join(' and ')}`);
    await runHelper('apt-get', ['-q', 'download', ...list], { cwd: downloads });
  };
  try {
    try {
      await download();
    } catch (error) {
      if (!isRoot()) throw error;
      say('updating the lists of packages');
      await updateLists();
      await download();
    }
  } catch (cause) {
    throw new RomulusError('ERR_HOST_PACKAGES', `cannot download ${names.join(' and ')}`, {
      remedy: 'Run `apt-get update` as root once, check the network, and try again.',
      cause,
      details: { reason: cause instanceof Error ? cause.message : String(cause) },
    });
  }
  await unpackAll(downloads, root);
  await rm(downloads, { recursive: true });
}

/**
 * Downloads a package of another suite with all that it needs, and unpacks it into `root`.
 * @throws {RomulusError} ERR_HOST_PACKAGES
 */
export async function unpackForeignPackage(
  suite: string,
  name: string,
  root: string,
  say: Say,
): Promise<void> {
  requireApt(`${name} of ${suite}`);
  const tree = join(root, '.apt');
  const archives = join(tree, 'cache', 'archives');
  await mkdir(join(tree, 'state', 'lists', 'partial'), { recursive: true });
  await mkdir(join(archives, 'partial'), { recursive: true });
  await mkdir(join(tree, 'etc', 'parts'), { recursive: true });
  await writeFile(join(tree, 'state', 'status'), '');
  const mirror = await systemMirror();
  const signed = existsSync(KEYRING) ? ` signed-by=${KEYRING}` : '';
  await writeFile(
    join(tree, 'etc', 'sources.list'),
    `deb [arch=amd64${signed}] ${mirror} ${suite} main\n`,
  );
  const settings = {
    'Dir::State': join(tree, 'state'),
    'Dir::State::status': join(tree, 'state', 'status'),
    'Dir::Cache': join(tree, 'cache'),
    'Dir::Etc::sourcelist': join(tree, 'etc', 'sources.list'),
    'Dir::Etc::sourceparts': join(tree, 'etc', 'parts'),
    'Dir::Etc::preferences': '/dev/null',
    'Dir::Etc::preferencesparts': join(tree, 'etc', 'parts'),
    'APT::Sandbox::User': 'root',
    'APT::Get::List-Cleanup': 'false',
    'APT::Architecture': 'amd64',
    'APT::Architectures': 'amd64',
  };
  const file = join(tree, 'apt.conf');
  await writeFile(
    file,
    Object.entries(settings)
      .map(([key, value]) => `${key} "${value}";\n`)
      .join(''),
  );
  const env = { APT_CONFIG: file };
  try {
    say(`reading the list of packages of ${suite}`);
    await runHelper('apt-get', ['-q', 'update'], { env });
    say(`downloading ${name} of ${suite} with all that it needs`);
    await runHelper(
      'apt-get',
      ['-qy', '--download-only', '--no-install-recommends', 'install', name],
      { env },
    );
  } catch (cause) {
    throw new RomulusError('ERR_HOST_PACKAGES', `cannot download ${name} of ${suite}`, {
      remedy: `It needs ${mirror}: check the network and try again.`,
      cause,
      details: { reason: cause instanceof Error ? cause.message : String(cause) },
    });
  }
  say('unpacking');
  await unpackAll(archives, root);
  await rm(tree, { recursive: true });
}
