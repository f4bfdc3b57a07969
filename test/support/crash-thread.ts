/**
 * Reaches into one thread of a node, as a defect in it or the system below it would: an exception that
 * nobody catches, a call that takes long. It is done from outside, through Node's inspector, so that the
 * node need not know of it.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { WebSocket } from 'ws';
import type { Child } from '../../src/drill/children.ts';

/** Lets each node listen on a port of its own; to be put before its command line. */
export const INSPECTABLE = ['env', 'NODE_OPTIONS=--inspect-port=0'] as const;

const LISTENING = /Debugger listening on (ws:\S+)/;
const WAIT_MS = 10_000;
const POLL_MS = 20;
// Once we are gone: a thread that ends while an inspector looks into it is no case that a node meets.
const THROW = "setTimeout(() => { throw new Error('a defect, for a test'); }, 200)";

interface Message {
  readonly method?: string;
  readonly params?: {
    readonly sessionId?: string;
    readonly workerInfo?: { readonly title: string };
  };
}

async function inspectorUrl(node: Child): Promise<string> {
  node.process.kill('SIGUSR1');
  const deadlineMs = performance.now() + WAIT_MS;
  for (;;) {
    const url = LISTENING.exec(readFileSync(node.logFile, 'utf8'))?.[1];
    if (url !== undefined) return url;
    if (performance.now() > deadlineMs) throw new Error(`${node.name} has no inspector`);
    await sleep(POLL_MS);
  }
}

/** A thread that has done this writes to no file for as long as the flag's file exists. */
function stallingWrites(flag: string): string {
  return `(() => {
    const fs = process.getBuiltinModule('fs');
    const { writeSync, existsSync } = fs;
    const clock = new Int32Array(new SharedArrayBuffer(4));
    fs.writeSync = (...words) => {
      while (existsSync(${JSON.stringify(flag)})) Atomics.wait(clock, 0, 0, 20);
      return writeSync(...words);
    };
    process.getBuiltinModule('module').syncBuiltinESMExports();
  })()`;
}

/** Throws in the thread of that name, and returns when that was asked for. */
export async function crashThread(node: Child, thread: string): Promise<void> {
  await runInThread(node, thread, THROW);
}

/**
 * From now on the storage of that backup takes no write while the file `flag` exists. Returns when the
 * thread has heard of it.
 */
export async function stallReplica(node: Child, flag: string): Promise<void> {
  await runInThread(node, 'apply', stallingWrites(flag));
}

/**
 * Has the thread of that name evaluate an expression, and returns when it has, or has failed to.
 * @param node was started with `INSPECTABLE`.
 */
async function runInThread(node: Child, thread: string, expression: string): Promise<void> {
  const socket = new WebSocket(await inspectorUrl(node));
  const titles: string[] = [];
  try {
    await new Promise<void>((resolve, reject) => {
      const late = setTimeout(
        () => reject(new Error(`no thread '${thread}' among: ${titles.join(', ')}`)),
        WAIT_MS,
      );
      const send = (id: number, method: string, params: object): void => {
        socket.send(JSON.stringify({ id, method, params }), (error) => {
          if (error instanceof Error) reject(error);
        });
      };
      socket.on('error', reject);
      socket.on('open', () => send(1, 'NodeWorker.enable', { waitForDebuggerOnStart: false }));
      socket.on('message', (data: Buffer) => {
        const { method, params } = JSON.parse(data.toString()) as Message;
        if (method === 'NodeWorker.attachedToWorker') {
          const title = params?.workerInfo?.title ?? '';
          titles.push(title);
          if (!title.includes(thread)) return;
          const evaluate = { id: 1, method: 'Runtime.evaluate', params: { expression } };
          const { sessionId } = params ?? {};
          send(2, 'NodeWorker.sendMessageToWorker', {
            sessionId,
            message: JSON.stringify(evaluate),
          });
        } else if (method === 'NodeWorker.receivedMessageFromWorker') {
          clearTimeout(late);
          resolve();
        }
      });
    });
  } finally {
    socket.terminate();
  }
}
