/**
 * The threads of a node collect garbage by themselves, without V8's helper threads. One that waits for
 * those spins until they are done; a heartbeat thread of real-time priority on each of a host's two
 * processors kept everything else off them for seconds, the helpers too. And each collection of any thread
 * woke four of them, in the way of the guest. V8 heeds this only from its beginning.
 */
import { becomeProgram } from '../native/host.ts';

const OPTION = '--single-threaded-gc';
const NODE_COMMANDS: ReadonlySet<string> = new Set(['protect', 'backup']);

/** Starts this process over with that option, where it is to be a node and has it not yet. */
export function collectAlone(argv: readonly string[]): void {
  const { execPath, execArgv } = process;
  if (execArgv.includes(OPTION) || !argv.some((word) => NODE_COMMANDS.has(word))) return;
  const why = becomeProgram(execPath, [execPath, OPTION, ...execArgv, ...argv.slice(1)]);
  process.emitWarning(`collecting garbage with helper threads, for want of ${execPath}: ${why}`);
}
