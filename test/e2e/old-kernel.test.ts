/**
 * Goal: where the kernel, or a container, has no userfaultfd or forbids ptrace, a node says so, or finds
 * another way by itself. Method: real processes under a filter that makes those calls fail.
 */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { freePorts } from '../../src/drill/ports.ts';
import { hostFacts } from '../../src/native/host.ts';
import { HandNodes, type Ran, WAIT_MS } from '../support/hand-nodes.ts';
import { requireUserfault } from '../support/require.ts';

const FILTER = fileURLToPath(new URL('../fixtures/without-calls.py', import.meta.url));
const [EPERM, ENOSYS] = ['1', '38'];
/** Numbers of calls on x86-64. */
const [PTRACE, USERFAULTFD] = ['101', '323'];
const withoutUserfaultfd = ['python3', FILTER, ENOSYS, USERFAULTFD];
const withoutPtrace = ['python3', FILTER, EPERM, PTRACE];
const facts = hostFacts();
const hasUserfault = requireUserfault();

let nodes: HandNodes;

beforeEach(() => {
  nodes = new HandNodes();
});

afterEach(() => nodes.close());

async function protectArgs(...flags: readonly string[]): Promise<string[]> {
  const [port = 0] = await freePorts(1);
  const { directory, arbiter } = nodes;
  const line =
    `protect --sim-socket ${join(directory, 'm.sock')} --name a --listen 127.0.0.1:${port} ` +
    `--state-dir ${join(directory, 'a')} --arbiter file:${arbiter}`;
  return [...line.split(' '), ...flags];
}

async function startMachine(under: readonly string[]): Promise<void> {
  const socket = join(nodes.directory, 'm.sock');
  nodes.start(['sim', '--socket', socket, '--memory', '32M'], under);
  await nodes.until('the machine', () => nodes.has('m.sock'));
}

function expectRefusal({ code, stderr }: Ran, error: RegExp): void {
  expect(stderr).toMatch(error);
  expect(code).toBe(1);
}

describe('without userfaultfd', { timeout: 2 * WAIT_MS }, () => {
  it('--tracker uffd-wp is refused, in words', async () => {
    await startMachine(withoutUserfaultfd);
    const ran = await nodes.run(await protectArgs('--tracker', 'uffd-wp'), withoutUserfaultfd);
    expectRefusal(ran, /^ERR_HOST_(?:ATTACH|TRACKER)_[A-Z]+: .+\n {2}\w.+\.$/m);
  });

  it('another way is found', async () => {
    await startMachine(withoutUserfaultfd);
    nodes.start(await protectArgs(), withoutUserfaultfd);
    await nodes.until('a', async () => (await nodes.status('a'))?.state === 'unprotected');
    expect((await nodes.status('a'))?.tracker).toBe(facts.softDirty ? 'soft-dirty' : 'mprotect');
  });
});

describe('without ptrace', { timeout: 2 * WAIT_MS }, () => {
  it.skipIf(!hasUserfault)('--tracker uffd-wp is refused, with the right to ask for', async () => {
    await startMachine([]);
    const ran = await nodes.run(await protectArgs('--tracker', 'uffd-wp'), withoutPtrace);
    expectRefusal(ran, /ERR_HOST_ATTACH_PERMISSION: .*could not trace it.*\n.*CAP_SYS_PTRACE/);
  });

  // Without userfaultfd it tries no more than what this filter lets pass.
  it.skipIf(!hasUserfault)('doctor says that no machine can be attached to', async () => {
    const { stdout, code } = await nodes.run(['doctor', '--json'], withoutPtrace);
    const { checks } = JSON.parse(stdout) as { checks: { name: string; finding: string }[] };
    const attaching = checks.find(({ name }) => name === 'attaching to a machine');
    // What yama may forbid looks the same, and would leave simulated machines.
    const mayBeYama = facts.yamaScope === 1 && !facts.ptraceCapability;
    expect(attaching?.finding).toBe(mayBeYama ? 'slow' : 'fails');
    expect(code).toBe(mayBeYama ? 0 : 1);
  });
});
