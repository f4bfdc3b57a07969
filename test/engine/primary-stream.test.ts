/** Goal: while too much waits to be applied nothing but a welcome is read, over whatever link. */
import { pino } from 'pino';
import { expect, it } from 'vitest';
import { encodeMessage } from '../../src/codec/messages.ts';
import { Backup } from '../../src/core/backup.ts';
import { type BackupEvent, DEFAULT_BACKUP_LIMITS } from '../../src/core/backup-types.ts';
import { parseNodeConfig } from '../../src/engine/config.ts';
import type { BackupImage } from '../../src/engine/backup-image.ts';
import type { NodeParts } from '../../src/engine/node-parts.ts';
import { PrimaryStream } from '../../src/engine/primary-stream.ts';
import { PrimaryWatch } from '../../src/engine/primary-watch.ts';
import { memoryLinkPair } from '../../src/links/memory.ts';
import { GENERATION, SAMPLES } from '../codec/samples.ts';

const config = parseNodeConfig({
  role: 'backup',
  node: 'b',
  guest: 'sim',
  listen: { host: '127.0.0.1', port: 0 },
  peer: { host: '127.0.0.1', port: 1 },
  stateDirectory: '/nonexistent',
  arbiter: 'none',
  onSilence: 'hold',
});
const log = pino({ level: 'silent' });

it('a link made while the old one was paused is read up to its welcome', async () => {
  const told: BackupEvent['kind'][] = [];
  const watch = new PrimaryWatch({ config, log, onVerdict: () => undefined });
  // Nobody is there to be watched.
  watch.watch = (): void => undefined;
  const stream = new PrimaryStream({
    parts: { config, log } as NodeParts,
    core: new Backup({
      node: 'b',
      promiseMs: 40,
      onSilence: 'hold',
      limits: DEFAULT_BACKUP_LIMITS,
    }),
    image: {} as BackupImage,
    watch,
    step: ({ kind }) => told.push(kind),
  });
  /** A memory link delivers within a few turns of the event loop. */
  const turns = async (): Promise<void> => {
    for (let turn = 0; turn < 10; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  };
  stream.connected(memoryLinkPair().backup);
  stream.setPaused(true);
  const { backup: here, primary: there } = memoryLinkPair();
  stream.connected(here);
  there.send(encodeMessage(SAMPLES.welcome, { generation: GENERATION }));
  await turns();
  expect(told).toEqual(['linkUp', 'linkUp', 'welcome']);
  there.send(encodeMessage({ ...SAMPLES.goodbye, reason: 'shutdown' }, { generation: GENERATION }));
  await turns();
  expect(told).toHaveLength(3);
  stream.setPaused(false);
  await turns();
  expect(told.at(-1)).toBe('goodbye');
  stream.close();
  await watch.close();
});
