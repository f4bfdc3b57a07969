/** A test's machine with a second monitor, as its user would have one. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { QmpClient } from '../../../src/guests/qemu/qmp/qmp-client.ts';
import {
  type GuestOptions,
  type RunningGuest,
  startGuest,
} from '../../support/qemu/start-guest.ts';

const EVENTUALLY_MS = 10_000;
/** A QEMU that has just begun to listen may be long in greeting. */
const GREETING_MS_MAX = 20_000;

export type Cleanups = (() => Promise<void> | void)[];

/** Boots a machine that counts; what is to be ended is added to the cleanups. */
export async function startForUser(
  cleanups: Cleanups,
  extraArgs: readonly string[] = [],
  options: GuestOptions = {},
): Promise<{ machine: RunningGuest; user: QmpClient; directory: string }> {
  const directory = mkdtempSync(join(tmpdir(), 'romulus-user-'));
  cleanups.push(() => rmSync(directory, { recursive: true, force: true }));
  const path = join(directory, 'user.qmp');
  const machine = await startGuest({
    memoryMib: 128,
    run: ['counter'],
    ...options,
    extraArgs,
    userQmp: path,
  });
  cleanups.push(() => machine.stop());
  const user = await QmpClient.connect(path, { timeoutMs: GREETING_MS_MAX });
  cleanups.push(() => user.close());
  return { machine, user, directory };
}

/** Tries until it does not throw any more. */
export async function eventually<T>(attempt: () => Promise<T> | T): Promise<T> {
  const deadlineMs = performance.now() + EVENTUALLY_MS;
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (performance.now() > deadlineMs) throw error;
      await sleep(5);
    }
  }
}
