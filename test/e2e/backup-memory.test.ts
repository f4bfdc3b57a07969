/** Goal: `backup --memory` turns away a machine of another size, in words that help, and no other. */
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { freePorts } from '../../src/drill/ports.ts';
import { HandNodes, WAIT_MS } from '../support/hand-nodes.ts';

let nodes: HandNodes;

beforeEach(() => {
  nodes = new HandNodes();
});

afterEach(() => nodes.close());

function nodeArgs(name: string, listen: number): string[] {
  const { directory, arbiter } = nodes;
  const line =
    `--name ${name} --listen 127.0.0.1:${listen} --state-dir ${join(directory, name)} ` +
    `--arbiter file:${arbiter} --heartbeat 150ms --promise 1500ms`;
  return line.split(' ');
}

it('names both sizes and the way out, and takes the right one', {
  timeout: 3 * WAIT_MS,
}, async () => {
  const [a = 0, b = 0] = await freePorts(2);
  await nodes.startMachine('m.sock', '--memory', '48M');
  nodes.start(['protect', '--sim-socket', join(nodes.directory, 'm.sock'), ...nodeArgs('a', a)]);
  const backup = (memory: string): ReturnType<HandNodes['start']> =>
    nodes.start(['backup', '--peer', `127.0.0.1:${a}`, '--memory', memory, ...nodeArgs('b', b)]);

  const wrong = backup('64M');
  const refusal = /has 48M of memory, .* expect 64M .*--peer .*--memory 48M/;
  await nodes.until('the refusal, told by the primary too', async () =>
    refusal.test((await nodes.status('a'))?.why ?? ''),
  );
  expect((await nodes.status('a'))?.state).toBe('unprotected');
  expect(nodes.sayingCount('ERR_CONFIG_MEMORY')).toBe(1);
  expect(nodes.sayingCount('broke the protocol')).toBe(0);
  await nodes.end(wrong, 'SIGTERM');

  backup('48M');
  await nodes.until('protection', async () => (await nodes.status('a'))?.state === 'protected');
});
