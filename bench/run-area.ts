/**
 * Runs one area in a process of its own: it begins with fresh heaps and priorities, and can be ended
 * when it takes too long. Started by main.ts only; tells its result over IPC.
 */
import { AREAS, type RunSettings } from './lib/areas.ts';

const [name, text = ''] = process.argv.slice(2);
const area = AREAS.find((candidate) => candidate.name === name);
if (area === undefined || process.send === undefined) {
  process.stderr.write('run-area is started by `npm run bench`\n');
  process.exit(2);
}
// What an area started is ended by its handlers of `exit`, which a plain death by signal skips.
// Signals come again while those are at work, and must not cut them short.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  process.on(signal, () => process.exit(1));
process.once('disconnect', () => process.exit(1));

try {
  const result = await area.run(JSON.parse(text) as RunSettings);
  process.send(result, () => process.exit(0));
} catch (error) {
  process.stderr.write(
    `${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
  );
  process.exit(1);
}
