/** `romulus status`, `adjust`, `promote`, `scrub`: thin clients of a node's control API. */
import type { Command } from 'commander';
import { RomulusError } from '../../base/errors.ts';
import type { NodeStatus } from '../../engine/status.ts';
import { callControl, SCRUB_WAIT_MS } from '../control-client.ts';
import { durationMs, durationMsOrOff } from '../options.ts';
import { LiveLine, table } from '../render.ts';
import { intervalText, statusLine, statusRows } from '../status-view.ts';

/** Time between two looks of `status --watch`. */
const WATCH_PERIOD_MS = 500;

interface ControlFlags {
  readonly stateDir: string;
  readonly json?: boolean;
}

function stateDirectoryOption(command: Command): Command {
  return command
    .requiredOption('--state-dir <dir>', "the node's state directory")
    .option('--json', 'one JSON object on stdout');
}

async function fetchStatus(stateDirectory: string): Promise<NodeStatus> {
  return (await callControl({ stateDirectory, method: 'GET', path: '/v1/status' })) as NodeStatus;
}

interface AdjustFlags extends ControlFlags {
  readonly interval?: number;
  readonly minInterval?: number;
}

async function watch(stateDirectory: string, json: boolean): Promise<void> {
  const line = new LiveLine(process.stdout);
  const stop = new AbortController();
  process.once('SIGINT', () => stop.abort());
  while (!stop.signal.aborted) {
    const status = await fetchStatus(stateDirectory);
    if (json) process.stdout.write(`${JSON.stringify(status)}\n`);
    else line.update(statusLine(status), performance.now());
    await new Promise((resolve) => setTimeout(resolve, WATCH_PERIOD_MS));
  }
  line.clear();
}

function addStatus(program: Command): void {
  stateDirectoryOption(
    program
      .command('status')
      .description('say what a node is doing')
      .option('--watch', 'keep looking, until interrupted')
      .addHelpText('after', '\nExample:\n  $ romulus status --state-dir /tmp/a --watch\n'),
  ).action(async (flags: ControlFlags & { readonly watch?: boolean }) => {
    if (flags.watch === true) return watch(flags.stateDir, flags.json === true);
    const status = await fetchStatus(flags.stateDir);
    process.stdout.write(
      flags.json === true
        ? `${JSON.stringify(status)}\n`
        : `${table(['what', 'value'], statusRows(status), process.stdout)}\n`,
    );
    return undefined;
  });
}

function addAdjust(program: Command): void {
  stateDirectoryOption(
    program
      .command('adjust')
      .description('change a running node')
      .option('--interval <duration>', 'new length of an epoch', durationMs('--interval'))
      .option(
        '--min-interval <duration>',
        'how old an epoch must be before output that waits ends it early; off: never',
        durationMsOrOff('--min-interval'),
      )
      .addHelpText('after', '\nExample:\n  $ romulus adjust --state-dir /tmp/a --interval 10ms\n'),
  ).action(async (flags: AdjustFlags) => {
    if (flags.interval === undefined && flags.minInterval === undefined)
      throw new RomulusError('ERR_USAGE_VALUE', 'adjust: nothing to change', {
        remedy: 'Give --interval, --min-interval, or both.',
      });
    const status = (await callControl({
      stateDirectory: flags.stateDir,
      method: 'POST',
      path: '/v1/adjust',
      body: { intervalMs: flags.interval, minIntervalMs: flags.minInterval },
    })) as NodeStatus;
    process.stdout.write(
      flags.json === true
        ? `${JSON.stringify(status)}\n`
        : `${status.node}: epochs of ${intervalText(status)} from the next one on\n`,
    );
  });
}

function addPromote(program: Command): void {
  stateDirectoryOption(
    program
      .command('promote')
      .description('make a backup the running copy')
      .option('--force', 'even when the register says that output may be lost')
      .addHelpText('after', '\nExample:\n  $ romulus promote --state-dir /tmp/b --force\n'),
  ).action(async (flags: ControlFlags & { readonly force?: boolean }) => {
    const answer = await callControl({
      stateDirectory: flags.stateDir,
      method: 'POST',
      path: '/v1/promote',
      body: { force: flags.force === true },
    });
    process.stdout.write(
      flags.json === true
        ? `${JSON.stringify({ schemaVersion: 1, ...(answer as object) })}\n`
        : 'promotion started; `romulus status` tells how it ends\n',
    );
  });
}

function addScrub(program: Command): void {
  stateDirectoryOption(
    program
      .command('scrub')
      .description('compare the digests of both images at the same epoch')
      .addHelpText('after', '\nExample:\n  $ romulus scrub --state-dir /tmp/a\n'),
  ).action(async (flags: ControlFlags) => {
    const answer = (await callControl({
      stateDirectory: flags.stateDir,
      method: 'POST',
      path: '/v1/scrub',
      body: {},
      waitMs: SCRUB_WAIT_MS,
    })) as { epoch: number; primary: string; backup: string; match: boolean };
    process.stdout.write(
      flags.json === true
        ? `${JSON.stringify({ schemaVersion: 1, ...answer })}\n`
        : `epoch ${answer.epoch}: primary ${answer.primary}, backup ${answer.backup}: ${answer.match ? 'the same' : 'DIFFERENT'}\n`,
    );
    if (!answer.match)
      throw new RomulusError('ERR_INTEGRITY_SCRUB', 'the two images differ', {
        remedy: 'Stop the backup and start it again: it takes a new full copy. Keep both logs.',
        details: answer,
      });
  });
}

/** Adds the four commands to the program. */
export function addControlCommands(program: Command): void {
  addStatus(program);
  addAdjust(program);
  addPromote(program);
  addScrub(program);
}
