/**
 * Where the script of a worker thread stands. Workers need JavaScript: when the caller runs from
 * the TypeScript sources (tests, tsx), its worker is taken from the build in `dist`.
 */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { RomulusError } from '../base/errors.ts';

/**
 * The URL of a worker's script, for `new Worker(url)`.
 * @param name path relative to the caller, without extension: `./heartbeat-worker`.
 * @param callerUrl the caller's `import.meta.url`.
 * @throws {RomulusError} ERR_HOST_NOT_BUILT when the script is not there.
 */
export function workerUrl(name: string, callerUrl: string): URL {
  const url = new URL(`${name}.js`, callerUrl);
  if (callerUrl.endsWith('.ts')) {
    const at = url.pathname.lastIndexOf('/src/');
    url.pathname = `${url.pathname.slice(0, at)}/dist/${url.pathname.slice(at + '/src/'.length)}`;
  }
  if (existsSync(url)) return url;
  throw new RomulusError('ERR_HOST_NOT_BUILT', `the worker ${fileURLToPath(url)} is missing`, {
    remedy: 'Run `npm run build`.',
    details: { path: fileURLToPath(url) },
  });
}
