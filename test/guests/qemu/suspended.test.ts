/**
 * A machine whose own system sleeps (ACPI S3): since 9.0 QEMU's save stops such a machine too, and does not
 * bring it back by itself.
 */
import { writeFileSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { MIB } from '../../../src/base/units.ts';
import { attachQemu } from '../../../src/guests/qemu/attach.ts';
import { qemuVersions, requireQemu } from '../../support/qemu/require-qemu.ts';
import { killAndWait, startEngine } from './engine-process.ts';
import { Bench } from './profile/start-qemu.ts';
import { type Cleanups, eventually } from './user-machine.ts';

const versions = (await requireQemu()) ? await qemuVersions() : [];

/**
 * A boot sector that goes to sleep and stays so: SLP_EN with SLP_TYP 1 into PM1a_CNT, which SeaBIOS puts at
 * 0x604; then hlt.
 */
const SLEEPER = Buffer.from('fbba0406b80024eff4ebfd', 'hex');
const SIGNATURE_AT = 510;
const SIGNATURE = 0xaa55;

const cleanups: Cleanups = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

/** Its monitor for its user, and the path of ours. */
async function startSleeper(binary: string) {
  const bench = new Bench();
  cleanups.push(() => bench.stop());
  const disk = Buffer.alloc(MIB);
  SLEEPER.copy(disk);
  disk.writeUInt16LE(SIGNATURE, SIGNATURE_AT);
  writeFileSync(bench.path('disk'), disk);
  const [qmpPath, userPath] = [bench.path('qmp'), bench.path('user')];
  const monitors = [qmpPath, userPath].flatMap((path) => [
    '-qmp',
    `unix:${path},server=on,wait=off`,
  ]);
  const drive = `file=${bench.path('disk')},format=raw,if=ide`;
  const words = ['-nodefaults', '-machine', 'q35', '-display', 'none', '-m', '64', '-drive', drive];
  const { client: user } = await bench.start(binary, [...words, ...monitors], userPath);
  await eventually(async () =>
    expect(await user.command('query-status')).toMatchObject({ status: 'suspended' }),
  );
  return { user, qmpPath };
}

describe.each(versions)(
  'a machine that sleeps, QEMU $version',
  ({ binary }) => {
    test('is neither checkpointed nor woken', async () => {
      const { user, qmpPath } = await startSleeper(binary);
      const guest = await attachQemu({ qmpPath, diskMode: 'none', holdsOutput: false });
      cleanups.push(() => guest.detach());
      await expect(guest.pause(() => undefined)).rejects.toMatchObject({
        code: 'ERR_GUEST_CANNOT_SUSPEND',
      });
      expect(await user.command('query-status')).toMatchObject({ status: 'suspended' });
    });

    test('sleeps on, and can be woken, when an engine dies in a pause that met it', async () => {
      const { user, qmpPath } = await startSleeper(binary);
      const engine = await startEngine(cleanups, qmpPath, { isInPause: true });
      // What that pause had asked for.
      await user.command('xen-save-devices-state', { filename: '/dev/null', live: false });
      await killAndWait(engine);
      expect(await user.command('query-status')).toMatchObject({ status: 'suspended' });
      await user.command('system_wakeup');
      await eventually(async () =>
        expect(await user.command('query-status')).toMatchObject({ status: 'running' }),
      );
    });
  },
  60_000,
);
