/**
 * Whether this host can run tests on a real QEMU. Missing parts are installed where that is possible;
 * otherwise the tests are skipped with one loud line, or fail when ROMULUS_REQUIRE_ALL=1.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { RomulusError } from '../../../src/base/errors.ts';
import { isRoot } from '../../../src/drill/qemu/debian.ts';
import { guestImage } from '../../../src/drill/qemu/guest-image.ts';
import { ensureQemu, QEMU_VERSIONS, qemuOfVersion } from '../../../src/drill/qemu/qemu-versions.ts';
import { servicesImage } from '../../../src/drill/qemu/services-image.ts';
import { ensureTools } from '../../../src/drill/qemu/tools.ts';
import { skipAnywhere, skipLoudly } from '../require.ts';
import { startGuest } from './start-guest.ts';

/** A nested KVM may take seconds for the firmware alone. */
const KVM_WAIT_MS = 60_000;

/**
 * True when QEMU and the test guest are there. Use as `describe.skipIf(!(await requireQemu()))`.
 * @throws {RomulusError} when they are not and ROMULUS_REQUIRE_ALL=1.
 */
export async function requireQemu(): Promise<boolean> {
  try {
    await ensureQemu();
    await guestImage();
    return true;
  } catch (error) {
    return skipLoudly('tests on a real QEMU', error);
  }
}

/** True when two hosts can be built of network namespaces here: for root, with iproute2 and ping. */
export async function requireHosts(): Promise<boolean> {
  try {
    if (!isRoot()) throw new Error('only root may make network namespaces');
    await ensureTools(['ip', 'ping'], () => undefined);
    return true;
  } catch (error) {
    return skipLoudly('tests on two hosts of network namespaces', error);
  }
}

/** True when a machine with a disk, a card and servers can be run on two such hosts. */
export async function requireServices(): Promise<boolean> {
  if (!(await requireQemu()) || !(await requireHosts())) return false;
  try {
    await servicesImage(await guestImage(), () => undefined);
    await ensureTools(['redis-benchmark', 'mke2fs', 'e2fsck', 'debugfs'], () => undefined);
    return true;
  } catch (error) {
    return skipLoudly('tests on a machine with disk and network', error);
  }
}

/** A QEMU to test with. */
export interface TestQemu {
  readonly version: string;
  readonly binary: string;
}

let versions: Promise<TestQemu[]> | undefined;

/** The system's QEMU and, where they can be had, 10.0 and 11.1; those that cannot are told loudly. */
export function qemuVersions(): Promise<TestQemu[]> {
  versions ??= findVersions();
  return versions;
}

async function findVersions(): Promise<TestQemu[]> {
  const found: TestQemu[] = [];
  for (const version of ['system', ...Object.keys(QEMU_VERSIONS)]) {
    try {
      found.push({ version, binary: await qemuOfVersion(version) });
    } catch (error) {
      // A suite that has moved on to a newer QEMU is nobody's mistake here.
      if (error instanceof RomulusError && error.code === 'ERR_HOST_QEMU_VERSION')
        skipAnywhere(`QEMU ${version}`, error.message);
      else skipLoudly(`QEMU ${version}`, error);
    }
  }
  return found;
}

/**
 * True when a machine runs under KVM here. Not every such host can also run a whole kernel under it,
 * and some give /dev/kvm to whom QEMU cannot start any machine with it.
 */
export async function kvmWorks(): Promise<boolean> {
  try {
    closeSync(openSync('/dev/kvm', constants.O_RDWR));
    const guest = await startGuest({ memoryMib: 64, bare: true, accelerator: 'kvm' });
    try {
      await Promise.race([
        guest.serial.waitFor('c 1', (text) => text === 'c 1', { withinMs: KVM_WAIT_MS }),
        guest.gone.then(() => {
          throw new Error(`QEMU ended: ${guest.stderr()}`);
        }),
      ]);
    } finally {
      await guest.stop();
    }
    return true;
  } catch (error) {
    return skipAnywhere('tests under KVM', (error as Error).message);
  }
}
