/**
 * The numbers of QEMU's migration stream, version 3, as QEMU 7.2 to 11.1 write it (its
 * migration/savevm.c and migration/ram.c). All integers are big-endian.
 *
 * ```
 * "QEVM" u32 3
 * 0x07 u32 length, machine name; subsections: 0x05 u8 length, name, u32 version, fields
 * 0x01 u32 id, u8 length, name, u32 instance, u32 version, data, footer   section start
 * 0x02 u32 id, data, footer                                              section part
 * 0x03 u32 id, data, footer                                              section end
 * 0x04 as 0x01                                                           whole section (a device)
 * 0x08 u16 command, u16 length, data                                     command
 * 0x00                                                                   no more sections
 * 0x06 u32 length, JSON                                                  description
 * footer: 0x7e u32 id
 * ```
 */

/** "QEVM". */
export const STREAM_MAGIC = 0x5145564d;
export const STREAM_VERSION = 3;
export const STREAM_HEADER_BYTES = 8;

/** First bytes of what stands in the stream. */
export const SECTION = {
  endOfSections: 0x00,
  start: 0x01,
  part: 0x02,
  end: 0x03,
  full: 0x04,
  subsection: 0x05,
  description: 0x06,
  configuration: 0x07,
  command: 0x08,
  footer: 0x7e,
} as const;

/** The section of RAM: its name, instance and version. */
export const RAM_SECTION = { name: 'ram', instance: 0, version: 4 } as const;

/** Low bits of the u64 that begins each record of RAM; the rest is the offset in the block. */
export const RAM_FLAG = {
  fill: 0x02,
  totalBytes: 0x04,
  page: 0x08,
  endOfSection: 0x10,
  sameBlock: 0x20,
  xbzrle: 0x40,
  hook: 0x80,
  compressed: 0x100,
  multifdFlush: 0x200,
} as const;

/** A page of the guest on the architectures we replicate. */
export const STREAM_PAGE_BYTES = 4096;

/** The source announces that it may switch to postcopy, which changes how blocks are listed. */
export const COMMAND_POSTCOPY_ADVISE = 3;

/** Longest machine name that is believed. */
export const MACHINE_NAME_BYTES_MAX = 256;
/** Subsections of the configuration that are read. */
export const SUBSECTIONS_MAX = 16;
/** Capabilities that a configuration may list. */
export const STREAM_CAPABILITIES_MAX = 64;
/** Blocks of RAM that a stream may list. */
export const STREAM_BLOCKS_MAX = 4096;
/** Most bytes that one block may have: 1 PiB, what 50 address bits reach. */
export const BLOCK_BYTES_MAX = 2 ** 50;
/** Longest description (JSON) that is read. */
export const DESCRIPTION_BYTES_MAX = 8 * 1024 * 1024;
