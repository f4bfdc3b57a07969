/**
 * `npm run sim -- --seed N [--without RULE]` replays one run with its trace;
 * `npm run sim -- --count N [--first N] [--without RULE]` runs many and stops at the first failure.
 * `--on-silence promote|hold` runs without an arbiter.
 */
import { parseArgs } from 'node:util';
import { ALL_RULES, RULE_NAMES, type RuleName, without } from './rules.ts';
import { describeFailure, runSeed } from './run.ts';

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    first: { type: 'string', default: '1' },
    count: { type: 'string', default: '1000' },
    without: { type: 'string' },
    'on-silence': { type: 'string', default: 'arbiter' },
  },
});

function numberOf(flag: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new RangeError(`--${flag} takes a whole number, not "${text}"`);
  }
  return value;
}

const left = values.without;
if (left !== undefined && !RULE_NAMES.includes(left as RuleName)) {
  throw new RangeError(`--without takes one of ${RULE_NAMES.join(', ')}, not "${left}"`);
}
const rules = left === undefined ? ALL_RULES : without(left as RuleName);

const onSilence = values['on-silence'];
if (onSilence !== 'arbiter' && onSilence !== 'promote' && onSilence !== 'hold') {
  throw new RangeError(`--on-silence takes arbiter, promote or hold, not "${onSilence}"`);
}

if (values.seed !== undefined) {
  const result = runSeed(numberOf('seed', values.seed), {
    rules,
    onSilence,
    listener: (line) => console.log(line),
  });
  console.log(result.violation === null ? 'every invariant held' : result.violation);
  console.log(JSON.stringify({ ...result.tally, registerChanges: result.registerChanges }));
  process.exitCode = result.violation === null ? 0 : 1;
} else {
  const first = numberOf('first', values.first);
  const count = numberOf('count', values.count);
  let changes = 0;
  let promotions = 0;
  let skipped = 0;
  for (let seed = first; seed < first + count; seed += 1) {
    const result = runSeed(seed, { rules, onSilence });
    changes += result.registerChanges;
    promotions += result.tally.promotions;
    skipped += result.tally.doubleFailures;
    if (result.violation !== null) {
      console.log(describeFailure(result));
      process.exitCode = 1;
      break;
    }
  }
  if (process.exitCode === undefined) {
    console.log(
      `${count} runs, ${changes} changes of the word, ${promotions} promotions, ` +
        `${skipped} ended in a double failure: every invariant held`,
    );
  }
}
