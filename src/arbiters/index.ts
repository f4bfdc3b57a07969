/** Which arbiters there are, and how they are named: the one place to touch when one is added. */
import { RomulusError } from '../base/errors.ts';
import type { Arbiter } from './arbiter.ts';
import { FileArbiter } from './file.ts';
import { NoArbiter } from './none.ts';

export type { Arbiter, CompareAndSetResult } from './arbiter.ts';

/** Forms that `openArbiter` accepts, for help texts. */
export const ARBITER_FORMS = ['file:/directory', 'none'] as const;

/** Known by the design, not part of this version. */
const NOT_AVAILABLE: ReadonlySet<string> = new Set(['etcd', 'command']);

/**
 * The arbiter of the given name, such as `file:/srv/romulus/vm1` or `none`. `ownWordPath` is where
 * a node without an arbiter keeps its own word.
 * @throws {RomulusError} ERR_CONFIG_ARBITER when the name is none, ERR_CONFIG_ARBITER_NOT_AVAILABLE
 *   when this version lacks it.
 */
export function openArbiter(
  name: string,
  { ownWordPath, ...options }: { timeoutMs?: number; ownWordPath?: string } = {},
): Arbiter {
  const [scheme = '', ...rest] = name.split(':');
  const argument = rest.join(':');
  if (scheme === 'file' && argument.startsWith('/')) {
    return new FileArbiter({ directory: argument, ...options });
  }
  if (name === 'none') return new NoArbiter(ownWordPath);
  const accepted = ARBITER_FORMS.join(' or ');
  if (NOT_AVAILABLE.has(scheme)) {
    throw new RomulusError(
      'ERR_CONFIG_ARBITER_NOT_AVAILABLE',
      `the arbiter "${scheme}" is not available in this version`,
      { remedy: `Use ${accepted}.`, details: { arbiter: name } },
    );
  }
  throw new RomulusError('ERR_CONFIG_ARBITER', `"${name}" names no arbiter`, {
    remedy: `Use ${accepted}; the directory is an absolute path.`,
    details: { arbiter: name },
  });
}
