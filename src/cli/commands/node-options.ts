/** The flags that `protect` and `backup` share, and how they become a node's configuration. */
import type { Command } from 'commander';
import type { NET_HOLDS, NodeConfigInput } from '../../engine/config.ts';
import { GUEST_KINDS, type GuestKind } from '../../guests/kinds.ts';
import type { QemuMapping } from '../../guests/qemu/profile/mapping.ts';
import { qemuMappingFile } from '../qemu-mapping-file.ts';
import { DISK_MODES, type DiskMode } from '../../codec/guest-descriptor.ts';
import {
  type DiskSyncChoice,
  diskSync,
  arbiterName,
  durationMs,
  durationMsOrOff,
  type Endpoint,
  endpoint,
  oneOf,
  sizeBytes,
} from '../options.ts';

const TRACKERS = ['auto', 'uffd-wp', 'soft-dirty', 'mprotect'] as const;
type TrackerChoice = (typeof TRACKERS)[number];

/** What commander makes of the shared flags. */
export interface NodeFlags {
  readonly guest?: GuestKind;
  readonly qemu?: string;
  readonly map?: QemuMapping;
  readonly ramDir?: string;
  readonly name: string;
  readonly listen: Endpoint;
  readonly heartbeatListen?: Endpoint;
  readonly peerHeartbeat?: Endpoint;
  readonly netListen?: Endpoint;
  readonly stateDir: string;
  readonly arbiter: string;
  readonly onSilence?: 'promote' | 'hold';
  readonly interval?: number;
  readonly minInterval?: number;
  readonly backlogLimit?: number;
  readonly heartbeat?: number;
  readonly promise?: number;
  readonly queueHigh?: number;
  readonly queueLow?: number;
  readonly tracker?: TrackerChoice;
  readonly disk?: DiskMode;
  readonly diskSync?: DiskSyncChoice;
  readonly fence?: string;
  readonly promoteHook?: string;
  readonly syncRate?: number;
  readonly net?: `hold=${(typeof NET_HOLDS)[number]}`;
  readonly audit?: string;
  readonly json?: boolean;
}

/** Adds the shared flags: the node's default name, and what `--guest` means to it. */
export function addNodeOptions(
  command: Command,
  own: { readonly name: string; readonly guest: string },
): Command {
  return command
    .option('--guest <kind>', own.guest, oneOf('--guest', GUEST_KINDS))
    .option('--name <name>', 'name of this node; the register knows it by that', own.name)
    .requiredOption(
      '--listen <host:port>',
      'where the other node reaches this one while this one is the primary',
      endpoint('--listen'),
    )
    .option(
      '--heartbeat-listen <host:port>',
      'where heartbeats are served (default: a free port, told in the handshake)',
      endpoint('--heartbeat-listen'),
    )
    .option(
      '--peer-heartbeat <host:port>',
      "the other node's heartbeats, when they are not where its handshake says",
      endpoint('--peer-heartbeat'),
    )
    .option(
      '--net-listen <host:port>',
      "where the outside world reaches a simulated machine's network port",
      endpoint('--net-listen'),
    )
    .requiredOption('--state-dir <dir>', "directory for this node's socket and files")
    .requiredOption(
      '--arbiter <name>',
      'who decides which copy may run: file:DIRECTORY or none',
      arbiterName('--arbiter'),
    )
    .option(
      '--on-silence <choice>',
      'with --arbiter none: promote (the backup takes over, the primary holds its output) or hold',
      oneOf('--on-silence', ['promote', 'hold'] as const),
    )
    .option('--interval <duration>', 'length of an epoch (default: 25ms)', durationMs('--interval'))
    .option(
      '--min-interval <duration>',
      'output that waits ends an epoch early, but not before it is so old; off: never (default: 5ms)',
      durationMsOrOff('--min-interval'),
    )
    .option(
      '--heartbeat <duration>',
      'time between heartbeats (default: 10ms)',
      durationMs('--heartbeat'),
    )
    .option(
      '--promise <duration>',
      'how long a backup promises not to take over (default: 40ms)',
      durationMs('--promise'),
    )
    .option(
      '--queue-high <size>',
      'queued bytes above which epochs get longer (default: 64M)',
      sizeBytes('--queue-high'),
    )
    .option(
      '--queue-low <size>',
      'queued bytes below which epochs are as asked again (default: 16M)',
      sizeBytes('--queue-low'),
    )
    .option(
      '--backlog-limit <duration>',
      'how long an epoch may wait for a backup that does not keep up; then the machine goes on unprotected (default: 10s)',
      durationMs('--backlog-limit'),
    )
    .option(
      '--disk-sync <choice>',
      'when replicas of disks are synced: commit (every epoch), N (every N epochs) or off (default: commit)',
      diskSync('--disk-sync'),
    )
    .option(
      '--disk <mode>',
      'replicate (every write goes to the backup), shared (both hosts have the same storage) or none; the same on both nodes (default: replicate)',
      oneOf('--disk', DISK_MODES),
    )
    .option(
      '--fence <command>',
      'with --disk shared: makes sure the other side cannot write, before a copy starts; exit code 0: done',
    )
    .option(
      '--promote-hook <command>',
      'runs once a copy was promoted here, for instance to move its address; its failure is told, and changes nothing',
    )
    .option(
      '--sync-rate <size>',
      'bytes a second that a first image may take (default: no limit)',
      sizeBytes('--sync-rate'),
    )
    .option(
      '--tracker <kind>',
      `how written pages are found: ${TRACKERS.join(', ')} (default: auto)`,
      oneOf('--tracker', TRACKERS),
    )
    .option(
      '--qemu <binary>',
      'the QEMU that runs copies on this host (default: qemu-system-x86_64)',
    )
    .option(
      '--map <file>',
      'how this host differs from the other (paths, sockets, taps); see docs/QEMU.md',
      qemuMappingFile('--map'),
    )
    .option('--ram-dir <dir>', "where a copy's RAM is kept: a tmpfs or hugetlbfs")
    .option(
      '--net <choice>',
      'hold=all (what the machine says leaves when its epoch is safe) or hold=none (at once: connections may see lost output) (default: hold=all)',
      oneOf('--net', ['hold=all', 'hold=none'] as const),
    )
    .option('--audit <file>', 'append every act that matters after a failover to this file')
    .option('--json', 'events as JSON lines on stdout');
}

/** The part of a node's configuration that the shared flags give. */
export function sharedConfig(flags: NodeFlags): Omit<NodeConfigInput, 'role'> {
  return {
    node: flags.name,
    guest: flags.guest ?? 'sim',
    listen: flags.listen,
    stateDirectory: flags.stateDir,
    arbiter: flags.arbiter,
    ...(flags.heartbeatListen && { heartbeatListen: flags.heartbeatListen }),
    ...(flags.peerHeartbeat && { peerHeartbeat: flags.peerHeartbeat }),
    ...(flags.netListen && { netListen: flags.netListen }),
    ...(flags.onSilence && { onSilence: flags.onSilence }),
    ...(flags.interval !== undefined && { intervalMs: flags.interval }),
    ...(flags.minInterval !== undefined && { minIntervalMs: flags.minInterval }),
    ...(flags.heartbeat !== undefined && { heartbeatMs: flags.heartbeat }),
    ...(flags.promise !== undefined && { promiseMs: flags.promise }),
    ...(flags.queueHigh !== undefined && { queueHighBytes: flags.queueHigh }),
    ...(flags.queueLow !== undefined && { queueLowBytes: flags.queueLow }),
    ...(flags.backlogLimit !== undefined && { backlogLimitMs: flags.backlogLimit }),
    ...(flags.tracker && { tracker: flags.tracker }),
    ...(flags.disk && { disk: flags.disk }),
    ...(flags.diskSync !== undefined && { diskSync: flags.diskSync }),
    ...(flags.fence !== undefined && { fence: flags.fence }),
    ...(flags.promoteHook !== undefined && { promoteHook: flags.promoteHook }),
    ...(flags.syncRate !== undefined && { syncBytesPerSecond: flags.syncRate }),
    ...(flags.qemu !== undefined && { qemuBinary: flags.qemu }),
    ...(flags.map && { qemuMapping: flags.map }),
    ...(flags.ramDir !== undefined && { ramDirectory: flags.ramDir }),
    ...(flags.net && { netHold: flags.net === 'hold=all' ? 'all' : 'none' }),
    ...(flags.audit !== undefined && { auditFile: flags.audit }),
  };
}
