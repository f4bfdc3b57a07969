/**
 * Runs one area in a process of its own: it begins with fresh heaps and priorities, and can be ended
 * when it takes too long. Started by main.ts only; tells its result over IPC.
 */
import { AREAS } from './lib/areas.ts';
import type { Mode } from './lib/result.ts';

const [name, mode, stressSeconds] = process.argv.slice(2);
const area = AREAS.find((candidate) => candidate.name === name);
if (area === undefined || process.send === undefined) {
  process.stderr.write('run-area is started by `npm run bench`\n');
  process.exit(2);
}
// What an area started is ended by its handlers of `exit`, which a plain death by signal skips.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  process.once(signal, () => process.exit(1));
process.once('disconnect', () => process.exit(1));

try {
  const settings = { mode: mode as Mode, stressSeconds: Number(stressSeconds) };
  const result = await area.run(settings);
  process.send(result, () => process.exit(0));
} catch (error) {
  process.stderr.write(
    `${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
  );
  process.exit(1);
}
