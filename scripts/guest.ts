/**
 * `npm run guest`: builds the test guest, and with `--qemu 10.0` (repeatable) prepares that version of
 * QEMU beside the system's. Prints where things are, one `name=path` a line.
 */
import { parseArgs } from 'node:util';
import { guestImage } from '../src/drill/qemu/guest-image.ts';
import { QEMU_VERSIONS, qemuOfVersion } from '../src/drill/qemu/qemu-versions.ts';
import { RomulusError } from '../src/base/errors.ts';

const { values } = parseArgs({ options: { qemu: { type: 'string', multiple: true } } });
const say = (text: string): void => {
  process.stderr.write(`${text}\n`);
};

try {
  const image = await guestImage(say);
  for (const [name, path] of Object.entries(image)) process.stdout.write(`${name}=${path}\n`);
  for (const version of values.qemu ?? []) {
    const binary = await qemuOfVersion(version, say);
    process.stdout.write(`qemu-${version}=${binary}\n`);
  }
} catch (error) {
  if (!(error instanceof RomulusError)) throw error;
  process.stderr.write(`${error.code}: ${error.message}\n${error.remedy}\n`);
  const { reason } = error.details;
  if (typeof reason === 'string') process.stderr.write(`${reason}\n`);
  process.stderr.write(`versions known: ${Object.keys(QEMU_VERSIONS).join(', ')}\n`);
  process.exitCode = 1;
}
