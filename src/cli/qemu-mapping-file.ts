/** Reads the file of `--map`: how one host's paths, sockets and taps differ from the other's. */
import { readFileSync } from 'node:fs';
import { RomulusError, toRomulusError } from '../base/errors.ts';
import { type QemuMapping, qemuMappingSchema } from '../guests/qemu/profile/mapping.ts';

/** A mapping is a page of text. */
const FILE_CHARACTERS_MAX = 1024 * 1024;

/**
 * Parses the named file.
 * @throws {RomulusError} ERR_USAGE_VALUE when it cannot be read or is no mapping, with every
 *   complaint.
 */
export function qemuMappingFile(flag: string): (path: string) => QemuMapping {
  return (path) => {
    let value: unknown;
    try {
      value = JSON.parse(readFileSync(path, 'utf8').slice(0, FILE_CHARACTERS_MAX));
    } catch (cause) {
      throw unusable(flag, path, toRomulusError(cause).message);
    }
    const parsed = qemuMappingSchema.safeParse(value);
    if (parsed.success) return parsed.data;
    const complaints = parsed.error.issues.map(
      (issue) => `${issue.path.join('.') || 'file'}: ${issue.message}`,
    );
    throw unusable(flag, path, complaints.join('; '));
  };
}

function unusable(flag: string, path: string, why: string): RomulusError {
  return new RomulusError('ERR_USAGE_VALUE', `${flag}: cannot use ${path}: ${why}`, {
    remedy: 'Give a JSON file as docs/QEMU.md describes it.',
    details: { flag, path },
  });
}
