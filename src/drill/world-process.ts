/**
 * The world as a process of its own, outside both nodes: what it heard is evidence that no node
 * could have touched. Its parent asks over IPC; when the parent is gone, it ends.
 */
import { unreachable } from '../base/assert.ts';
import type { Endpoint } from '../engine/config.ts';
import { answerQuestions } from './answer-questions.ts';
import { type Gateway, openGateway } from './gateway.ts';
import { KvLoad, type KvOutcome } from './kv-load.ts';
import { type RecordedInput, World, type WorldStatus } from './world.ts';
import type { RecordColumns } from './world-record.ts';

/** What the drill may ask. */
export type WorldQuestion =
  | { readonly ask: 'start'; readonly lines: readonly Endpoint[] }
  | { readonly ask: 'status' }
  | { readonly ask: 'startKv' }
  | { readonly ask: 'finishKv' }
  | { readonly ask: 'openGateway' }
  | { readonly ask: 'closeGateway' }
  | { readonly ask: 'record' };

/** The answers, by question. */
export interface WorldAnswers {
  readonly start: null;
  readonly status: WorldStatus & { readonly kv: KvOutcome | null };
  readonly startKv: null;
  readonly finishKv: KvOutcome;
  readonly openGateway: { readonly port: number };
  readonly closeGateway: null;
  readonly record: {
    readonly columns: RecordColumns;
    readonly overflowed: boolean;
    readonly inputs: readonly RecordedInput[];
  };
}

let world: World | null = null;
let kv: KvLoad | null = null;
let gateway: Gateway | null = null;

function theWorld(): World {
  if (world === null) throw new Error('the world was not started');
  return world;
}

async function answer(question: WorldQuestion): Promise<WorldAnswers[keyof WorldAnswers]> {
  switch (question.ask) {
    case 'start':
      world = new World({
        lines: question.lines,
        record: true,
        onNotice: (line, text) => process.stderr.write(`line ${line}: ${text}\n`),
      });
      return null;
    case 'status':
      return { ...theWorld().status(), kv: kv?.outcome ?? null };
    case 'startKv':
      kv = new KvLoad(theWorld());
      return null;
    case 'finishKv':
      if (kv === null) throw new Error('no key-value load runs');
      return kv.finish();
    case 'openGateway':
      gateway = await openGateway(theWorld(), { host: '127.0.0.1', port: 0 });
      return { port: gateway.port };
    case 'closeGateway':
      await gateway?.close();
      gateway = null;
      return null;
    case 'record':
      return {
        columns: theWorld().record.columns(),
        overflowed: theWorld().record.overflowed,
        inputs: theWorld().inputs,
      };
    default:
      return unreachable(question, 'question');
  }
}

answerQuestions(answer);
