/**
 * The machine's RAM on the backup: every memory backend, whatever it was on the source (anonymous,
 * memfd, huge pages, a plugged DIMM), becomes a file that we map as well, with the same id, size and
 * RAM block name.
 */
import { assert } from '../../../base/assert.ts';
import { Arguments } from './arguments.ts';
import type { ProfileMemory, QemuProfile } from './profile.ts';

/** Memory backends still to be put on the command line. */
export class RamBackends {
  readonly #memory: ReadonlyMap<string, ProfileMemory>;
  readonly #paths: Readonly<Record<string, string>>;
  readonly #done = new Set<string>();

  constructor(profile: QemuProfile, paths: Readonly<Record<string, string>>) {
    this.#memory = new Map(profile.memory.map((memory) => [memory.backendId, memory]));
    this.#paths = paths;
  }

  /** The object that stands for a backend; null when the machine has it no more. */
  take(id: string): Arguments | null {
    const memory = this.#memory.get(id);
    if (memory === undefined || this.#done.has(id)) return null;
    const path = Object.hasOwn(this.#paths, id) ? this.#paths[id] : undefined;
    assert(path !== undefined, `no file is given for the memory backend '${id}'`);
    this.#done.add(id);
    return Arguments.of('qom-type', 'memory-backend-file', {
      id,
      size: memory.bytes,
      'mem-path': path,
      share: 'on',
      // Decides the RAM block's name, which must be the source's.
      'x-use-canonical-path-for-ramblock-id': memory.blockName === id ? 'off' : 'on',
    });
  }

  /** Those that no option of the source's command line made. */
  rest(): Arguments[] {
    return [...this.#memory.keys()].flatMap((id) => this.take(id) ?? []);
  }
}
