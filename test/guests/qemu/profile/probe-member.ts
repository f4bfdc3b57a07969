/** Part of probe.test.ts: a process that starts a probe, says so, and then waits to be killed. */
import { probeQemu } from '../../../../src/guests/qemu/profile/probe.ts';

const [, , qemu = ''] = process.argv;
await probeQemu([qemu], ['-machine', 'none'], async ({ peerPid, path }) => {
  process.stdout.write(`${JSON.stringify({ pid: peerPid, path })}\n`);
  // Longer than the test waits for anything.
  await new Promise((resolve) => setTimeout(resolve, 120_000));
});
