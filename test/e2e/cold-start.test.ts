/**
 * Goal: after both hosts lost power, the register decides whose machine may be started, as
 * docs/RUNBOOK.md says. Method: two nodes by hand, everything killed at once, new machines.
 */
import { mkdirSync, readdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import type { ChildProcess } from 'node:child_process';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { freePorts } from '../../src/drill/ports.ts';
import { HandNodes, WAIT_MS } from '../support/hand-nodes.ts';

let nodes: HandNodes;
let ports = { a: 0, b: 0 };

beforeEach(async () => {
  nodes = new HandNodes();
  const [a = 0, b = 0] = await freePorts(2);
  ports = { a, b };
});

afterEach(() => nodes.close());

type Name = 'a' | 'b';

function nodeArgs(name: Name): string[] {
  const other = name === 'a' ? 'b' : 'a';
  const line =
    `--name ${name} --listen 127.0.0.1:${ports[name]} --peer 127.0.0.1:${ports[other]} ` +
    `--state-dir ${join(nodes.directory, name)} --arbiter file:${nodes.arbiter} ` +
    '--heartbeat 150ms --promise 1500ms';
  return line.split(' ');
}

/** Starts a machine on that node's host and protects it, as far as the register lets it. */
async function protectNew(name: Name): Promise<ChildProcess> {
  const socket = `${name}.sock`;
  const machine = await nodes.startMachine(socket);
  nodes.start(['protect', '--sim-socket', join(nodes.directory, socket), ...nodeArgs(name)]);
  return machine;
}

async function untilState(name: Name, state: string): Promise<void> {
  await nodes.until(`${name} ${state}`, async () => (await nodes.status(name))?.state === state);
}

async function untilEnded(machine: ChildProcess): Promise<void> {
  await nodes.until(
    'the end of the machine',
    () => machine.exitCode !== null || machine.signalCode !== null,
  );
}

/** Nothing of either host lives on; what is on their disks does. */
function losePower(): void {
  nodes.killNaming(`${nodes.directory}/`);
}

it('the last runner goes on, another host does not until there is a new register', {
  timeout: 4 * WAIT_MS,
}, async () => {
  await protectNew('a');
  await untilState('a', 'unprotected');
  nodes.start(['backup', ...nodeArgs('b')]);
  await untilState('a', 'protected');
  losePower();

  // The host that the register does not name: its new machine is ended, and it follows.
  await untilEnded(await protectNew('b'));
  await untilState('b', 'empty');
  expect(nodes.sayingCount(`the machine at ${join(nodes.directory, 'b.sock')} is ended`)).toBe(1);
  // The one that it names: its new machine runs, once the partner had its time.
  await protectNew('a');
  await untilState('a', 'protected');
  expect((await nodes.status('b'))?.state).toBe('following');
  losePower();

  // That host is gone for good: with a new register the other one may.
  renameSync(nodes.arbiter, `${nodes.arbiter}.old`);
  mkdirSync(nodes.arbiter);
  await protectNew('b');
  await untilState('b', 'unprotected');
  // The first comes back all the same, by its own command.
  await untilEnded(await protectNew('a'));
  await untilState('b', 'protected');
  expect((await nodes.status('a'))?.state).toBe('following');
  expect(readdirSync(nodes.arbiter)).not.toHaveLength(0);
});

it('a host without its machine follows the one that the register names', {
  timeout: 2 * WAIT_MS,
}, async () => {
  await protectNew('a');
  await untilState('a', 'unprotected');
  nodes.start(['protect', '--sim-socket', join(nodes.directory, 'b.sock'), ...nodeArgs('b')]);
  await untilState('a', 'protected');
  expect((await nodes.status('b'))?.state).toBe('following');
});
