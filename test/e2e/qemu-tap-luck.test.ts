/**
 * Goal: whatever happens to a protected machine's tap or bridge, the machine runs on and stays protected,
 * and nothing is heard on one side that the other side says again.
 * Method: a guest that sends numbered frames through a tap and a bridge of its host, a network namespace, a
 * copy on another host, and a client of both that writes down the numbers.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import type { Child } from '../../src/drill/children.ts';
import { TAP, TwoHosts } from '../../src/drill/hosts/two-hosts.ts';
import { VIRTIO_MODULES } from '../../src/drill/qemu/guest-image.ts';
import type { NodeProcess } from '../../src/drill/node-process.ts';
import { ensureQemu } from '../../src/drill/qemu/qemu-versions.ts';
import { killed, LuckStage, until, untilStatus, WAIT_MS } from '../support/qemu/luck-stage.ts';
import { requireHosts, requireQemu } from '../support/qemu/require-qemu.ts';

const isPossible = (await requireQemu()) && (await requireHosts());

/** Says the number of every numbered frame that comes in (test-guest/programs/frames.c). */
const LISTENER = `
import socket, struct
ears = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5))
ears.bind(('lan', 0))
while True:
    frame = ears.recv(65536)
    print(struct.unpack_from('<Q', frame, 14)[0], flush=True)
`;

describe.runIf(isPossible)('a tap in trouble', { timeout: 4 * WAIT_MS }, () => {
  let stage: LuckStage;
  let hosts: TwoHosts;
  let listener: Child;

  afterEach(async () => {
    await stage.close();
    await hosts.remove();
  });

  /** Numbers that the client has heard. */
  function heard(): number[] {
    const lines = readFileSync(listener.logFile, 'utf8').split('\n').slice(0, -1);
    return lines.map(Number);
  }

  async function hearsMore(): Promise<void> {
    const here = heard().length;
    await until('frames at the client', () => heard().length > here + 10);
  }

  /** A change of a network device of the machine's host. */
  async function change(...words: string[]): Promise<void> {
    const said = await stage.runHelper([...hosts.enter('a'), 'ip', 'link', ...words]);
    expect(said).toBe('');
  }

  /** The guest counts on, unharmed, and its epochs are acknowledged. */
  async function goesOn(node: NodeProcess): Promise<void> {
    const { lines } = stage.consoleOf('a');
    const here = lines.length;
    const epoch = node.progress?.ackedEpoch ?? 0;
    await until('the guest', () => lines.length > here + 50);
    await untilStatus(
      node,
      'epochs',
      ({ state, ackedEpoch }) => state === 'protected' && ackedEpoch > epoch + 5,
    );
    expect(lines.map(({ text }) => text).filter((text) => /BAD|^!/.test(text))).toEqual([]);
  }

  it('a bridge that is down and a tap that is gone cost frames, not the protection', async () => {
    stage = await LuckStage.open();
    hosts = await TwoHosts.make(stage.path(''), () => undefined);
    listener = stage.stage.start({
      name: 'listener',
      launcher: hosts.enter('client'),
      command: 'python3',
      args: ['-c', LISTENER],
      output: 'log',
    });
    const copies = stage.path('qemu-b');
    const words = [...hosts.enter('b'), await ensureQemu()].join(' ');
    writeFileSync(copies, `#!/bin/sh\nexec ${words} "$@"\n`, { mode: 0o755 });
    const machine = await stage.startMachine({
      launcher: hosts.enter('a'),
      run: ['frames', 'counter'],
      kernelArgs: [`romulus.modules=${VIRTIO_MODULES.join()}`, 'romulus.frames=50'],
      extraArgs: [
        '-netdev',
        `tap,id=n0,ifname=${TAP},script=no,downscript=no`,
        '-device',
        'virtio-net-pci,netdev=n0,id=nic0',
      ],
    });
    await hearsMore();
    const a = stage.startNode('a', 'protect');
    stage.netdevs.b['n0'] = 'user';
    const headless = stage.startNode('b', 'backup');
    await untilStatus(a, 'a refusal', ({ why }) => why.includes('[net-headers]'));
    await killed(headless.child);
    delete stage.netdevs.b['n0'];
    const b = stage.startNode('b', 'backup', { extra: ['--qemu', copies] });
    await untilStatus(a, 'protection', ({ state }) => state === 'protected');
    await hearsMore();

    await change('set', 'br0', 'down');
    await goesOn(a);
    await change('set', 'br0', 'up');
    await hearsMore();

    await change('del', TAP);
    const released = a.progress?.outputReleasedFrames ?? 0;
    await goesOn(a);
    await untilStatus(a, 'what is let out', (s) => s.outputReleasedFrames > released + 20);

    await killed(machine);
    await untilStatus(b, 'a takeover', ({ role }) => role === 'primary');
    await hearsMore();
    // Nothing was said twice, nor by one side what the other had said already.
    const numbers = heard();
    expect(numbers).toEqual([...new Set(numbers)].toSorted((x, y) => x - y));
  });
});
