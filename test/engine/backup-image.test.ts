/**
 * Goal: a backup never has more than one machine waiting, whenever its links break. Method: images
 * asked for while others are still being made, of a real simulated machine.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { BackupEvent } from '../../src/core/backup-types.ts';
import { Audit } from '../../src/engine/audit.ts';
import { BackupImage } from '../../src/engine/backup-image.ts';
import { parseNodeConfig } from '../../src/engine/config.ts';
import { PromoteHook } from '../../src/engine/promote-hook.ts';
import type { GuestDescriptor } from '../../src/guests/guest.ts';
import { attachSim } from '../../src/guests/sim/sim-guest.ts';
import { OutletSwitch } from '../../src/nets/outlet-switch.ts';
import { OutputGate } from '../../src/nets/output-gate.ts';
import { openArbiter } from '../../src/arbiters/index.ts';
import { MachineKit } from '../guests/sim/machine-kit.ts';

let kit: MachineKit;
let directory = '';
let descriptor: GuestDescriptor;
let image: BackupImage;
let told: BackupEvent[] = [];

beforeEach(async () => {
  kit = new MachineKit();
  await kit.open();
  directory = mkdtempSync(join(tmpdir(), 'romulus-image-'));
  told = [];
  const machine = await kit.start({ workload: 'idle' });
  const guest = await attachSim({ socketPath: machine.socketPath });
  ({ descriptor } = guest);
  await guest.detach();
  const outlet = new OutletSwitch({
    ready: true,
    write: () => undefined,
    onReady: () => undefined,
  });
  image = new BackupImage({
    parts: {
      config: parseNodeConfig({
        role: 'backup',
        node: 'b',
        guest: 'sim',
        listen: { host: '127.0.0.1', port: 0 },
        peer: { host: '127.0.0.1', port: 1 },
        stateDirectory: directory,
        arbiter: 'none',
        onSilence: 'hold',
      }),
      log: pino({ level: 'silent' }),
      audit: new Audit(null),
      arbiter: openArbiter('none', { ownWordPath: join(directory, 'word.json') }),
      gate: new OutputGate({ outlet, nowMs: () => performance.now(), mode: 'closed' }),
      outlet,
      promoteHook: new PromoteHook({
        command: null,
        node: 'b',
        log: pino({ level: 'silent' }),
        emit: () => undefined,
      }),
      emit: () => undefined,
      saveMachine: () => undefined,
      setMachine: () => undefined,
      netPort: null,
      report: () => undefined,
    },
    onPressure: () => undefined,
    instance: () => null,
    step: (event) => told.push(event),
  });
});
afterEach(async () => {
  await image.close();
  await kit.close();
  rmSync(directory, { recursive: true, force: true });
});

/** Processes of machines that wait, by the directory that their sockets are in. */
function machinesWaiting(): number {
  return execFileSync('ps', ['-eo', 'args='], { encoding: 'utf8' })
    .split('\n')
    .filter((line) => line.includes(`${directory}/`)).length;
}

test('asked for another image while one is being made, it ends with one machine', async () => {
  const first = image.prepare(1, 'full', descriptor);
  // Far enough that the first one's machine is on its way.
  await new Promise((resolve) => setImmediate(resolve));
  const asked = [first, image.prepare(2, 'full', descriptor), image.prepare(3, 'full', descriptor)];
  await Promise.all(asked);
  expect(machinesWaiting()).toBe(1);
  expect(told.at(-1)).toMatchObject({ kind: 'imagePrepared', linkId: 3 });
  expect(told).not.toContainEqual(expect.objectContaining({ linkId: 2 }));
});

test('closed while a machine is being made, it leaves none', async () => {
  void image.prepare(1, 'full', descriptor);
  await new Promise((resolve) => setImmediate(resolve));
  await image.close();
  expect(machinesWaiting()).toBe(0);
});
