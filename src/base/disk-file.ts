/** A file in which the bytes of a machine's disk lie. */
export interface FoundFile {
  /** Through which it can be opened, such as `/proc/PID/fd/N`. */
  readonly path: string;
  /** The file that was found there: the path may lead to another one later. */
  readonly identity?: { readonly device: bigint; readonly inode: bigint };
}

/** As found, with the form in which it holds them; `raw` is as the guest sees them. */
export interface DiskFile extends FoundFile {
  readonly format: 'raw' | 'qcow2';
  /** What QEMU called it then: a disk may have been given another file since. */
  readonly known?: KnownImage;
}

/** A disk's image, as QEMU's `query-block` names it. */
export interface KnownImage {
  readonly file: string;
  readonly driver: string;
}
