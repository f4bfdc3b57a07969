/**
 * A node's heartbeat in a process of its own, to be killed or frozen. Options as JSON in the first
 * argument; says each event as a JSON line with its instant. Ends when stdin ends.
 */
import { asGeneration } from '../../src/base/units.ts';
import { type HeartbeatOptions, startHeartbeat } from '../../src/signals/heartbeat.ts';
import { monotonicMs } from '../../src/signals/promise-words.ts';

function say(event: object): void {
  process.stdout.write(`${JSON.stringify({ atMs: monotonicMs(), ...event })}\n`);
}

const given = JSON.parse(process.argv[2] ?? '{}') as Pick<
  HeartbeatOptions,
  'role' | 'endpoint' | 'instance' | 'partner' | 'tuning'
>;
const heartbeat = await startHeartbeat({
  ...given,
  generation: asGeneration(1),
  onVerdict: ({ state, why }) => {
    say({ event: 'verdict', state, why });
  },
  onFailed: ({ code, message }) => {
    say({ event: 'failed', code, message });
  },
});
say({ event: 'ready', port: heartbeat.port, priority: heartbeat.priority });
process.stdin.resume();
process.stdin.on('end', () => {
  void heartbeat.stop();
});
