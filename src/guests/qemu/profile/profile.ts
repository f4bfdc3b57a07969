/**
 * What a running QEMU really is, as plain JSON: enough to start another one that its state fits.
 * It travels to the backup as `descriptor.profile`, so whoever receives one checks it with
 * `qemuProfileSchema` first: everything in it was said by another host.
 *
 * `configuration` and `ramBlocks` are filled by whoever attaches; `readProfile` leaves them empty.
 */
import { z } from 'zod';

/** Devices, drives and the like that are believed, each. */
export const PROFILE_ENTRIES_MAX = 1024;
/** Words of a command line that are believed. */
export const PROFILE_ARGV_MAX = 4096;
/** Longest word of a command line, and longest other text, in characters. */
export const PROFILE_TEXT_MAX = 65_536;

const text = z.string().max(PROFILE_TEXT_MAX);
const bytes = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);
const word32 = z.number().int().min(0).max(0xffff_ffff);
const list = <T extends z.ZodType>(of: T): z.ZodArray<T> => z.array(of).max(PROFILE_ENTRIES_MAX);

/** One 32-bit word of CPUID features as the guest sees it. */
const featureWordSchema = z.object({
  leaf: word32,
  subleaf: word32.nullable(),
  register: z.enum(['EAX', 'EBX', 'ECX', 'EDX', 'ESP', 'EBP', 'ESI', 'EDI']),
  bits: word32,
});

const memorySchema = z.object({
  /** Id of the memory-backend object. */
  backendId: text,
  /** Name of its RAM block. */
  blockName: text,
  bytes,
  /** The object's type on the source. */
  type: text,
  /** What it is the memory of. */
  use: z.enum(['main', 'numa', 'dimm', 'nvdimm', 'virtio-mem', 'virtio-pmem', 'other']),
  /** Page size of the huge pages behind it, null for ordinary ones. */
  hugepageBytes: bytes.nullable(),
});

const deviceSchema = z.object({
  /** Null for one that was given none; then its path names it. */
  id: text.nullable(),
  path: text,
  driver: text,
  /** Plugged after the start, or not on the command line for another reason. */
  isAdded: z.boolean(),
  /** Where it sits, for PCI devices. */
  pci: z
    .object({
      bus: text,
      slot: z.number().int().min(0).max(31),
      function: z.number().int().min(0).max(7),
    })
    .nullable(),
  /** Of added devices only: what differs from the defaults, as `-device` takes it. */
  properties: z.record(text, text),
});

/** Checks a profile that came from elsewhere. */
export const qemuProfileSchema = z.object({
  schemaVersion: z.literal(1),
  name: text,
  uuid: text,
  qemu: z.object({
    version: z.object({
      major: z.number().int().nonnegative(),
      minor: z.number().int().nonnegative(),
      micro: z.number().int().nonnegative(),
      package: text,
    }),
    /** The program's path on the source. */
    binary: text,
    /** What started it, a dynamic loader with its options included. */
    launcher: z.array(text).max(PROFILE_ARGV_MAX),
  }),
  /** The versioned machine type, such as `pc-q35-7.2`. */
  machine: text,
  accelerator: text,
  /** QEMU's options as started, without what started it. */
  argv: z.array(text).max(PROFILE_ARGV_MAX),
  /** Working directory, to which relative paths belong. */
  workingDirectory: text,
  cpu: z.object({
    type: text,
    count: z.number().int().min(1).max(4096),
    featureWords: z.array(featureWordSchema).max(256),
  }),
  /** Main memory, without plugged modules. */
  memoryBytes: bytes,
  memory: list(memorySchema),
  devices: list(deviceSchema),
  /** Objects under /objects that are no memory backends. */
  objects: list(
    z.object({ id: text, type: text, isAdded: z.boolean(), properties: z.record(text, text) }),
  ),
  drives: list(
    z.object({
      /** The name given with `-drive`, empty for `-blockdev`. */
      id: text,
      nodeName: text,
      /** The device that uses it. */
      device: text,
      file: text,
      format: text,
      isReadOnly: z.boolean(),
      isRemovable: z.boolean(),
      bytes,
    }),
  ),
  /** Names of all block nodes that were named by the user. */
  blockNodes: list(text),
  netdevs: list(z.object({ id: text, type: text, isAdded: z.boolean() })),
  nics: list(z.object({ device: text, netdev: text, mac: text })),
  chardevs: list(z.object({ id: text, filename: text })),
  tpms: list(text),
  /** The balloon's present size, null without one. */
  balloonBytes: bytes.nullable(),
  /** Why QEMU itself would not migrate, in its own words. */
  migrationBlockers: list(text),
  /** Base64 of the configuration section of QEMU's migration stream. */
  configuration: z.string().max(1024 * 1024),
  ramBlocks: list(
    z.object({
      id: z.number().int().nonnegative(),
      name: text,
      usedBytes: bytes,
      totalBytes: bytes,
      small: z.boolean(),
    }),
  ),
});

/** What a running QEMU really is. */
export type QemuProfile = z.infer<typeof qemuProfileSchema>;
/** A memory backend of the machine. */
export type ProfileMemory = QemuProfile['memory'][number];
/** A disk or another thing with blocks. */
export type ProfileDrive = QemuProfile['drives'][number];
/** A device of the machine. */
export type ProfileDevice = QemuProfile['devices'][number];
/** One word of CPU features. */
export type FeatureWord = z.infer<typeof featureWordSchema>;
