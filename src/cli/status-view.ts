/**
 * A node's status as people read it: rows for `status`, one line for `status --watch`. What is nothing to
 * look at (no image being made, no disk, nothing dropped) has no row. The names are those that
 * docs/RUNBOOK.md sends its reader to.
 */
import type { NodeStatus, Spread } from '../engine/status.ts';
import { formatBytes, formatMs, formatSpan } from './render.ts';

const UNHELD = 'NOT HELD: what the machine says leaves before it is safe (--net hold=none)';

type Row = [string, string];
type Sync = NonNullable<NodeStatus['sync']>;

function spread(value: Spread, format: (one: number) => string): string {
  return `${format(value.p50)} / ${format(value.p99)} / ${format(value.max)}`;
}

/** How long an epoch is, and how much shorter one may be. */
export function intervalText({ intervalMs, minIntervalMs }: NodeStatus): string {
  const interval = formatMs(intervalMs);
  if (minIntervalMs === 0) return interval;
  return `${interval}, ${formatMs(minIntervalMs)} at least when output waits`;
}

/**
 * How much of round 0 is done, from 0 to 1: the disks come first, then memory. Null where nobody knows:
 * of a disk that is brought up to date it is found on the way what there is to be sent.
 */
function doneShare(sync: Sync): number | null {
  const { plan, diskBytes, diskTotalBytes, memoryBytes, memoryTotalBytes } = sync;
  if (plan === 'changed') {
    if (diskTotalBytes > 0 && memoryBytes === 0) return null;
    return memoryTotalBytes === 0 ? null : memoryBytes / memoryTotalBytes;
  }
  const totalBytes = diskTotalBytes + memoryTotalBytes;
  // What the machine writes meanwhile is sent as well, so the first can outgrow the second.
  const doneBytes =
    (memoryBytes > 0 ? diskTotalBytes : Math.min(diskBytes, diskTotalBytes)) + memoryBytes;
  return totalBytes === 0 ? null : doneBytes / totalBytes;
}

function percentText(share: number): string {
  return `${Math.floor(share * 100)} %`;
}

/** How far the image is that a backup is being given. */
export function syncText(sync: Sync): string {
  const { plan, round, bytes, elapsedMs } = sync;
  const rate = elapsedMs > 0 ? `, ${formatBytes((bytes / elapsedMs) * 1000)}/s` : '';
  const sent = `${formatBytes(bytes)} sent${rate}`;
  const what = plan === 'full' ? 'full copy' : 'what changed since the backup was here';
  if (round > 0) return `${what}, round ${round}: what was written meanwhile; ${sent}`;
  const share = doneShare(sync);
  if (share === null) return `${what}; ${sent}`;
  const left =
    share > 0 && share < 1 && elapsedMs > 0
      ? `, about ${formatSpan((elapsedMs * (1 - share)) / share)} left`
      : '';
  return `${percentText(share)} of the ${plan === 'full' ? 'full copy' : 'changes'}${disksText(sync)}; ${sent}${left}`;
}

function disksText({ plan, diskBytes, diskTotalBytes, memoryBytes }: Sync): string {
  if (plan !== 'full' || diskTotalBytes === 0 || memoryBytes > 0) return '';
  const shown = Math.min(diskBytes, diskTotalBytes);
  return ` (disks: ${formatBytes(shown)} of ${formatBytes(diskTotalBytes)})`;
}

function syncing({ state, sync }: NodeStatus): Sync | null {
  return state === 'syncing' ? sync : null;
}

function syncRow(status: NodeStatus): Row[] {
  const sync = syncing(status);
  return sync === null ? [] : [['sync', syncText(sync)]];
}

function diskRows({ diskMode, diskCount, diskWaitingBytes }: NodeStatus): Row[] {
  if (diskMode === null || (diskMode === 'replicate' && diskCount === 0)) return [];
  const mode = {
    replicate: `replicate: ${diskCount} ${diskCount === 1 ? 'disk' : 'disks'}`,
    shared: 'shared: both hosts see the same storage, nothing is copied',
    none: 'none: nothing is copied',
  }[diskMode];
  const rows: Row[] = [['disk', mode]];
  if (diskWaitingBytes > 0)
    rows.push(['disk writes waiting for their epoch', formatBytes(diskWaitingBytes)]);
  return rows;
}

function outputRows(status: NodeStatus): Row[] {
  const { outputHold, outputHeldFrames, outputReleasedFrames, outputDroppedFrames } = status;
  const rows: Row[] = outputHold === 'none' ? [['output', UNHELD]] : [];
  rows.push(['frames held / released', `${outputHeldFrames} / ${outputReleasedFrames}`]);
  if (outputDroppedFrames > 0) rows.push(['frames dropped', String(outputDroppedFrames)]);
  return rows;
}

function hookRow({ promoteHook }: NodeStatus): Row[] {
  if (promoteHook === null) return [];
  const { state, why } = promoteHook;
  return [['promote hook', why === '' ? state : `${state}: ${why}`]];
}

/** A node's status as rows for people. */
export function statusRows(status: NodeStatus): Row[] {
  const count = (value: number): string => String(Math.round(value));
  return [
    ['node', `${status.node} (${status.role})`],
    ['state', `${status.state}: ${status.why}`],
    ...syncRow(status),
    ['guest', status.guest ?? '-'],
    ['generation', String(status.generation)],
    [
      'epochs made / acked / released / applied',
      `${status.epoch} / ${status.ackedEpoch} / ${status.releasedEpoch} / ${status.appliedEpoch}`,
    ],
    ['interval', intervalText(status)],
    ['checkpoints early, for output', String(status.earlyCheckpoints)],
    ['pause p50 / p99 / max', spread(status.pauseMs, formatMs)],
    ['output delay p50 / p99 / max', spread(status.outputDelayMs, formatMs)],
    ['dirty pages p50 / p99 / max', spread(status.dirtyPages, count)],
    ['bytes raw / sent', `${formatBytes(status.bytesRaw)} / ${formatBytes(status.bytesSent)}`],
    ['queue', formatBytes(status.queueBytes)],
    ...outputRows(status),
    ...diskRows(status),
    [
      'peer',
      status.peer === null
        ? '-'
        : `${status.peer.node}, ${status.peer.connected ? 'connected' : 'not connected'}`,
    ],
    [
      'last heartbeat',
      status.heartbeatAgeMs === null ? '-' : `${formatMs(status.heartbeatAgeMs)} ago`,
    ],
    [
      'heartbeats late / longest gap',
      `${status.heartbeatsLate} / ${formatMs(status.heartbeatGapMsMax)}`,
    ],
    ['tracker', status.tracker ?? '-'],
    ...hookRow(status),
  ];
}

/** The same in one line, for who keeps looking. */
export function statusLine(status: NodeStatus): string {
  const sync = syncing(status);
  const head = `${status.node} ${status.role} ${status.state}`;
  const unheld = status.outputHold === 'none' ? '  output NOT HELD' : '';
  if (sync !== null) return `${head}${unheld}  ${syncText(sync)}`;
  return (
    `${head}${unheld}  epoch ${status.epoch}  ` +
    `pages ${Math.round(status.dirtyPages.last)}  pause ${formatMs(status.pauseMs.last)}  ` +
    `queue ${formatBytes(status.queueBytes)}  output delay ${formatMs(status.outputDelayMs.p50)}`
  );
}
