/**
 * Goal: a backup whose disk is slower than the machine makes changes costs the protection after a bound,
 * never the machine: it runs on, is heard, and is protected anew once the disk is quick again.
 * Method: real nodes and a simulated machine; the backup's storage takes no writes until the loss was
 * told.
 */
import { randomFillSync } from 'node:crypto';
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { afterEach, expect, it } from 'vitest';
import { callControl, SCRUB_WAIT_MS } from '../../src/cli/control-client.ts';
import { Stage } from '../../src/drill/children.ts';
import { NodeProcess } from '../../src/drill/node-process.ts';
import { freePorts } from '../../src/drill/ports.ts';
import { SIM_EXECUTABLE } from '../../src/native/load.ts';
import { INSPECTABLE, stallReplica } from '../support/crash-thread.ts';
import { until, untilStatus, WAIT_MS } from '../support/qemu/luck-stage.ts';

/**
 * Of what cannot be compressed. A backup lets 256 MiB wait for its disk, and all of the first copy must
 * fit in: this, and a memory of 16 MiB in each of at most eight rounds and in the last checkpoint.
 */
const DISK_BYTES = 96 * 1024 * 1024;

let stage: Stage;
afterEach(async () => {
  await stage.close({ keepFiles: false });
});

it('a backup that does not keep up is left behind; the machine goes on, and it is taken back later', {
  timeout: 3 * WAIT_MS,
}, async () => {
  stage = new Stage();
  mkdirSync(stage.path('arbiter'));
  const socket = stage.path('m.sock');
  const disk = stage.path('m.img');
  const flag = stage.path('stalled');
  writeFileSync(disk, randomFillSync(Buffer.allocUnsafe(DISK_BYTES)));
  writeFileSync(flag, '');
  const [netA, netB, ...links] = await freePorts(4);
  const machine = stage.start({
    name: 'machine',
    command: SIM_EXECUTABLE,
    args: [
      ...`--socket ${socket} --disk-file ${disk} --disk ${DISK_BYTES}`.split(' '),
      ...'--memory 16M --workload random --rate 0'.split(' '),
    ],
    output: 'log',
  });
  const startNode = (name: 'a' | 'b', words: readonly string[]): NodeProcess => {
    const [own, other] = name === 'a' ? links : links.toReversed();
    const line =
      `--name ${name} --listen 127.0.0.1:${own} --peer 127.0.0.1:${other} ` +
      `--net-listen 127.0.0.1:${name === 'a' ? netA : netB} --state-dir ${stage.path(name)} ` +
      `--arbiter file:${stage.path('arbiter')} --heartbeat 150ms --promise 1500ms`;
    return new NodeProcess(stage, {
      name,
      launcher: INSPECTABLE,
      args: [...words, ...line.split(' ')],
      onProgress: () => undefined,
    });
  };
  const b = startNode('b', ['backup', '--guest', 'sim']);
  await untilStatus(b, 'a backup', ({ role }) => role === 'backup');
  await stallReplica(b.child, flag);
  await until('the machine', () => existsSync(socket));
  const a = startNode('a', ['protect', '--sim-socket', socket, '--backlog-limit', '1s']);
  await untilStatus(a, 'protection', ({ state }) => state === 'protected');
  const reason =
    /^alone by the register: the backup does not keep up: epoch \d+ was not acknowledged for 1000 ms$/;
  await untilStatus(a, 'the loss', ({ state, why }) => state === 'unprotected' && reason.test(why));
  expect(b.progress?.role).toBe('backup');
  rmSync(flag);
  await untilStatus(a, 'protection', ({ state }) => state === 'protected');
  const scrub = await callControl({
    stateDirectory: stage.path('a'),
    method: 'POST',
    path: '/v1/scrub',
    waitMs: SCRUB_WAIT_MS,
  });
  expect(scrub).toMatchObject({ match: true });
  expect(machine.isGone()).toBe(false);
});
