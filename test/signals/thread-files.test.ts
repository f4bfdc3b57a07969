// Goal: the heartbeat thread's own table of descriptors leaves nothing behind in the process.
import { readdirSync, readlinkSync } from 'node:fs';
import { createServer } from 'node:net';
import { describe, expect, it } from 'vitest';
import { NO_GENERATION } from '../../src/base/units.ts';
import { startHeartbeat } from '../../src/signals/heartbeat.ts';

function openDescriptors(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`)];
    } catch {
      // The descriptor of the listing itself.
      return [];
    }
  });
}

async function beatOnce(): Promise<void> {
  const heartbeat = await startHeartbeat({
    role: 'primary',
    endpoint: { host: '127.0.0.1', port: 0 },
    generation: NO_GENERATION,
    onVerdict: () => undefined,
    onFailed: (error) => {
      throw error;
    },
  });
  await heartbeat.stop();
}

describe('a heartbeat thread', () => {
  it('leaves as many descriptors as there were', async () => {
    await beatOnce();
    const before = openDescriptors().length;
    for (let round = 0; round < 3; round += 1) await beatOnce();
    expect(openDescriptors().length).toBe(before);
  });

  it('keeps no copy of a socket that the main thread closes', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as { port: number };
    const heartbeat = await startHeartbeat({
      role: 'primary',
      endpoint: { host: '127.0.0.1', port: 0 },
      generation: NO_GENERATION,
      onVerdict: () => undefined,
      onFailed: (error) => {
        throw error;
      },
    });
    await new Promise((resolve) => server.close(resolve));
    const again = createServer();
    // Refused with EADDRINUSE if the thread's table still held the first listener.
    await new Promise<void>((resolve, reject) => {
      again.once('error', reject);
      again.listen(port, '127.0.0.1', resolve);
    });
    await new Promise((resolve) => again.close(resolve));
    await heartbeat.stop();
  });
});
