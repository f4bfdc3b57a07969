import { describe, expect, it } from 'vitest';
import { Prng } from '../../src/base/prng.ts';
import { FaultyLink, type LinkFaults } from '../../src/links/faults.ts';
import type { Link } from '../../src/links/link.ts';
import { memoryLinkPair } from '../../src/links/memory.ts';
import { frameOf, LinkProbe } from '../contracts/link.ts';

const FRAMES = 200;
const pauseOf = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Until all that was sent has been received. */
async function settled(link: Link): Promise<void> {
  while (link.queuedBytes > 0) await pauseOf(5);
  await pauseOf(5);
}

async function epochsThrough(faults: LinkFaults): Promise<{ epochs: number[]; probe: LinkProbe }> {
  const { primary, backup } = memoryLinkPair();
  const link = new FaultyLink(primary, new Prng(7), faults);
  const probe = new LinkProbe(backup);
  for (let epoch = 1; epoch <= FRAMES; epoch += 1) link.send(frameOf(epoch, new Uint8Array(8)));
  await settled(link);
  const epochs = probe.frames.map((frame) => Number(frame.epoch));
  link.destroy();
  return { epochs, probe };
}

const ALL = Array.from({ length: FRAMES }, (_, index) => index + 1);
const ascending = (epochs: readonly number[]): number[] => [...epochs].sort((a, b) => a - b);

describe('FaultyLink', () => {
  it('changes nothing without faults', async () => {
    expect((await epochsThrough({})).epochs).toEqual(ALL);
  });

  it('delays in order', async () => {
    const { epochs } = await epochsThrough({ delayMsMin: 1, delayMsMax: 20 });
    expect(epochs).toEqual(ALL);
  });

  it('loses some, and keeps the order of the rest', async () => {
    const { epochs } = await epochsThrough({ lossChance: 0.3 });
    expect(epochs.length).toBeLessThan(FRAMES);
    expect(epochs.length).toBeGreaterThan(FRAMES / 3);
    expect(epochs).toEqual(ascending(epochs));
  });

  it('re-orders', async () => {
    const { epochs } = await epochsThrough({ delayMsMax: 20, reorderChance: 0.5 });
    expect(epochs).not.toEqual(ALL);
    expect(ascending(epochs)).toEqual(ALL);
  });

  it('repeats', async () => {
    const { epochs } = await epochsThrough({ repeatChance: 0.5 });
    expect(epochs.length).toBeGreaterThan(FRAMES);
    expect([...new Set(epochs)]).toEqual(ALL);
  });

  it('damages: the other end refuses it', async () => {
    const { probe } = await epochsThrough({ damageChance: 1 });
    expect(probe.ends).toMatchObject([{ kind: 'protocol' }]);
  });

  it('is silent while cut, and speaks again when healed', async () => {
    const { primary, backup } = memoryLinkPair();
    const link = new FaultyLink(primary, new Prng(1));
    const probe = new LinkProbe(backup);
    link.cut();
    link.send(frameOf(1, new Uint8Array(1)));
    await pauseOf(50);
    expect(probe.frames).toEqual([]);
    expect(probe.ends).toEqual([]);
    link.heal();
    link.send(frameOf(2, new Uint8Array(1)));
    expect((await probe.framesCome(1))[0]?.epoch).toBe(2);
    link.destroy();
  });
});
