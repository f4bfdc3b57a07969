/**
 * What a node is told: one object, checked once, passed on. Command line and (later) config file
 * both end here, so a wrong value gets the same words whichever way it came.
 */
import { z } from 'zod';
import { RomulusError } from '../base/errors.ts';
import { MIB } from '../base/units.ts';
import { DISK_MODES } from '../codec/guest-descriptor.ts';
import { DEFAULT_PRIMARY_LIMITS } from '../core/primary-types.ts';
import { DISK_SYNC_EPOCHS_MAX } from '../disks/disk.ts';
import { qemuMappingSchema } from '../guests/qemu/profile/mapping.ts';

/** Bounds of the epoch interval; the upper one is what a timer can still hold. */
export const INTERVAL_MS_MIN = 1;
export const INTERVAL_MS_MAX = 24 * 60 * 60 * 1000;
/** Short beside what a network adds, long beside what a checkpoint costs. */
export const MIN_INTERVAL_MS_DEFAULT = 5;

/** Below it one slow round trip would cost the protection. */
export const BACKLOG_LIMIT_MS_MIN = 100;

/** What may become of the output of a machine's NICs. */
export const NET_HOLDS = ['all', 'none'] as const;

const endpoint = z.object({
  host: z.string().min(1),
  port: z.number().int().min(0).max(65_535),
});

const schema = z
  .object({
    role: z.enum(['protect', 'backup']),
    node: z
      .string()
      .regex(/^[A-Za-z0-9._-]{1,64}$/, 'a name of 1 to 64 letters, digits, dots, dashes'),
    guest: z.enum(['sim', 'qemu']),
    /** The machine to protect; a backup makes its own. */
    simSocket: z.string().min(1).optional(),
    qmpSocket: z.string().min(1).optional(),
    /** QEMU's process, when the QMP socket was opened by another one for it. */
    qemuPid: z.number().int().positive().optional(),
    /** What a backup starts. */
    qemuBinary: z.string().min(1).optional(),
    /** How this host differs from the primary's: paths, sockets, taps. */
    qemuMapping: qemuMappingSchema.optional(),
    /** Where a backup keeps the machine's RAM: a directory on tmpfs or hugetlbfs. */
    ramDirectory: z.string().min(1).optional(),
    listen: endpoint,
    heartbeatListen: endpoint.optional(),
    peer: endpoint.optional(),
    peerHeartbeat: endpoint.optional(),
    netListen: endpoint.optional(),
    stateDirectory: z.string().min(1),
    arbiter: z.string().min(1),
    onSilence: z.enum(['promote', 'hold']).optional(),
    intervalMs: z.number().min(INTERVAL_MS_MIN).max(INTERVAL_MS_MAX).default(25),
    /** Output that waits ends an epoch early, but not before it is so old; 0: it does not. */
    minIntervalMs: z.number().min(0).max(INTERVAL_MS_MAX).default(MIN_INTERVAL_MS_DEFAULT),
    heartbeatMs: z.number().min(1).max(60_000).default(10),
    promiseMs: z.number().min(5).max(60_000).default(40),
    queueHighBytes: z
      .number()
      .int()
      .min(MIB)
      .default(64 * MIB),
    queueLowBytes: z
      .number()
      .int()
      .min(0)
      .default(16 * MIB),
    /** How old an epoch that is not acknowledged may become before the machine goes on unprotected. */
    backlogLimitMs: z
      .number()
      .min(BACKLOG_LIMIT_MS_MIN)
      .max(INTERVAL_MS_MAX)
      .default(DEFAULT_PRIMARY_LIMITS.backlogMs),
    syncBytesPerSecond: z.number().min(MIB).optional(),
    /** A backup refuses a machine whose RAM has another size. */
    expectedMemoryBytes: z.number().int().positive().optional(),
    tracker: z.enum(['auto', 'uffd-wp', 'soft-dirty', 'mprotect']).default('auto'),
    diskSync: z
      .union([
        z.enum(['commit', 'off']),
        z.object({ everyEpochs: z.number().int().min(1).max(DISK_SYNC_EPOCHS_MAX) }),
      ])
      .default('commit'),
    /** What becomes of the machine's disks; both nodes must say the same. */
    disk: z.enum(DISK_MODES).default('replicate'),
    /** Run by a shell before a copy is started on shared disks; exit code 0: the other side is fenced. */
    fence: z.string().min(1).max(4096).optional(),
    /** Run by a shell once a copy was promoted here and runs, for instance to move its address. */
    promoteHook: z.string().min(1).max(4096).optional(),
    /** Whether what a QEMU's NICs say waits for its epoch, or leaves at once and may be taken back. */
    netHold: z.enum(NET_HOLDS).default('all'),
    auditFile: z.string().min(1).optional(),
  })
  .check((context) => {
    const value = context.value;
    const complain = (key: string, message: string): void => {
      context.issues.push({ code: 'custom', path: [key], message, input: value });
    };
    if (value.role === 'protect' && value.guest === 'sim' && value.simSocket === undefined)
      complain('simSocket', 'is needed to protect a simulated machine');
    if (value.role === 'protect' && value.guest === 'qemu' && value.qmpSocket === undefined)
      complain('qmpSocket', 'is needed to protect a QEMU machine');
    if (value.role === 'backup' && value.peer === undefined)
      complain('peer', 'is needed: the backup dials the primary');
    if (value.disk === 'shared' && value.fence === undefined)
      complain('fence', 'is needed with shared disks: two machines writing to one disk ruin it');
    if (value.disk !== 'shared' && value.fence !== undefined)
      complain('fence', 'is for shared disks only');
    if (value.role === 'protect' && value.guest === 'sim' && value.disk !== 'replicate')
      complain('disk', 'of a simulated machine is always replicated');
    if (value.role === 'protect' && value.guest === 'sim' && value.netHold !== 'all')
      complain('netHold', 'of a simulated machine is always all');
    if (value.queueLowBytes >= value.queueHighBytes)
      complain('queueLowBytes', 'must be below the high watermark');
    if (value.arbiter === 'none' && value.onSilence === undefined)
      complain('onSilence', 'is needed with arbiter none: promote or hold, never both');
    if (value.promiseMs < 2 * value.heartbeatMs)
      complain('promiseMs', 'must be at least twice the heartbeat, or output stalls between beats');
  });

export type NodeConfig = z.output<typeof schema>;
export type NodeConfigInput = z.input<typeof schema>;
export type Endpoint = z.output<typeof endpoint>;

/**
 * Checks a configuration and fills in defaults.
 * @throws {RomulusError} ERR_CONFIG_INVALID naming every wrong key.
 */
export function parseNodeConfig(input: NodeConfigInput): NodeConfig {
  const result = schema.safeParse(input);
  if (result.success) return result.data;
  const complaints = result.error.issues.map(
    (issue) => `${issue.path.join('.') || 'configuration'}: ${issue.message}`,
  );
  throw new RomulusError('ERR_CONFIG_INVALID', complaints.join('; '), {
    remedy: 'Correct the named settings; `romulus protect --help` lists what each accepts.',
    details: { complaints },
  });
}
