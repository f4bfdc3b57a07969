// A thread with a monitor of its own that watches the disk server of the thread that started it.
import { parentPort, workerData } from 'node:worker_threads';
import { DiskWatchdog } from '../../dist/disks/nbd/watchdog.js';
import { QmpClient } from '../../dist/guests/qemu/qmp/qmp-client.js';

const { path, server } = workerData;
const monitor = await QmpClient.connect(path, { timeoutMs: 20_000 });

async function report(error) {
  // These wait for the guest's writes, and so would hang had QEMU not been freed.
  await monitor.command('stop');
  await monitor.command('cont');
  parentPort.postMessage({ code: error.code });
  monitor.close();
  watchdog.stop();
}

const watchdog = new DiskWatchdog({
  server,
  // The test beats from its main thread, which a busy host may keep from it for a while.
  stallMsMax: 3000,
  onStall: report,
});
parentPort.postMessage('watching');
