/**
 * `npm run guest`: builds the test guest, with `--services` the one that others talk to, and with
 * `--qemu 10.0` (repeatable) prepares that version of QEMU beside the system's. Prints where things are,
 * one `name=path` a line.
 */
import { parseArgs } from 'node:util';
import { guestImage } from '../src/drill/qemu/guest-image.ts';
import { QEMU_VERSIONS, qemuOfVersion } from '../src/drill/qemu/qemu-versions.ts';
import { servicesImage } from '../src/drill/qemu/services-image.ts';
import { RomulusError } from '../src/base/errors.ts';

const { values } = parseArgs({
  options: { qemu: { type: 'string', multiple: true }, services: { type: 'boolean' } },
});
const say = (text: string): void => {
  process.stderr.write(`${text}\n`);
};

try {
  const plain = await guestImage(say);
  const image = values.services === true ? await servicesImage(plain, say) : plain;
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
