/**
 * Where the source's paths lead on the backup, and the list of what could not be placed. All that
 * cannot be mapped is gathered, so that it can be told at once.
 */
import { basename, isAbsolute, join } from 'node:path';
import type { DiskMode } from '../../guest.ts';
import { entryOf, type QemuMapping } from './mapping.ts';

/** Longest path of a unix socket. */
const SOCKET_PATH_BYTES_MAX = 107;

/** Something on the source's command line that has no place here. */
export interface MappingProblem {
  /** The argument as it stands there. */
  readonly argument: string;
  readonly why: string;
  /** The key of the mapping that would settle it. */
  readonly key: string;
}

/** A file here that holds a writable disk of the machine, and the names of that disk. */
export interface PlacedDisk {
  readonly path: string;
  readonly names: readonly string[];
}

/** Places for paths, and what has none. */
export class Places {
  readonly mapping: QemuMapping;
  readonly problems: MappingProblem[] = [];
  /** Files that QEMU will read and nobody makes: they must be there. */
  readonly neededFiles: string[] = [];
  /** Where writable disks go; who makes their files, if anybody, depends on the mode. */
  readonly disks: PlacedDisk[] = [];
  readonly diskMode: DiskMode;
  readonly #directory: string;
  readonly #workingDirectory: string;
  readonly #taken = new Set<string>();

  constructor(
    mapping: QemuMapping,
    directory: string,
    workingDirectory: string,
    diskMode: DiskMode,
  ) {
    this.diskMode = diskMode;
    this.mapping = mapping;
    this.#directory = directory;
    this.#workingDirectory = workingDirectory;
  }

  /** Notes that an argument cannot be used here. */
  refuse(argument: string, why: string, key: string): void {
    this.problems.push({ argument, why, key });
  }

  /** Where `files` of the mapping says that a path is, undefined when it says nothing. */
  mapped(path: string): string | undefined {
    const { files } = this.mapping;
    return entryOf(files, path) ?? entryOf(files, this.absolute(path));
  }

  /** The path of a file that is only read: the same as there unless mapped. */
  readable(path: string): string {
    const here = this.mapped(path) ?? this.absolute(path);
    this.neededFiles.push(here);
    return here;
  }

  /** A path of our own for a socket or a file that QEMU makes, with the same last name. */
  own(path: string, id: string): string {
    const name = basename(path);
    const free = this.#taken.has(name) ? `${id}-${name}` : name;
    this.#taken.add(free);
    return this.mapped(path) ?? join(this.#directory, free);
  }

  /** As `own`, for a socket, whose path must be short. */
  ownSocket(path: string, id: string, argument: string): string {
    const here = this.own(path, id);
    if (Buffer.byteLength(here) > SOCKET_PATH_BYTES_MAX) {
      this.refuse(argument, `${here} is too long for a socket`, `files["${path}"]`);
    }
    return here;
  }

  /** A path of the source's, from its root. */
  absolute(path: string): string {
    return isAbsolute(path) ? path : join(this.#workingDirectory, path);
  }
}
