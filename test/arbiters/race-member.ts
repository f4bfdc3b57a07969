/** One process that tries to win every generation; prints those it won as JSON lines. */
import { FileArbiter } from '../../src/arbiters/file.ts';
import { solo, startAlone } from '../../src/core/register.ts';

const [directory = '', name = '', rounds = '0'] = process.argv.slice(2);
const arbiter = new FileArbiter({ directory });
for (;;) {
  const word = await arbiter.read();
  if ((word?.generation ?? 0) >= Number(rounds)) break;
  const next = word === null ? startAlone(name) : solo({ ...word, runner: name });
  const { won } = await arbiter.compareAndSet(word, next);
  if (won) process.stdout.write(`${JSON.stringify({ generation: next.generation, name })}\n`);
}
