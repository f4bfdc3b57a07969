/**
 * What every outlet towards the world must do: everyone outside hears every frame, whole and in
 * order, and bytes never wait inside the process while the outlet says `ready`.
 */
import { expect, it } from 'vitest';
import { toBoundaryFrame } from '../../src/nets/boundary-frames.ts';
import type { NetOutlet } from '../../src/nets/net.ts';

/** Someone outside who hears frames. */
export interface NetListener {
  /** Resolves when this many payloads were heard, with all of them. */
  heard(count: number): Promise<string[]>;
  close(): void;
}

export interface NetFixture {
  readonly outlet: NetOutlet;
  listen(): Promise<NetListener>;
  destroy(): Promise<void>;
}

export function netContract(fresh: () => Promise<NetFixture>): void {
  it('is ready, and swallows frames, while nobody listens', async () => {
    const fixture = await fresh();
    try {
      expect(fixture.outlet.ready).toBe(true);
      fixture.outlet.write(toBoundaryFrame(Buffer.from('nobody')), 0);
      expect(fixture.outlet.ready).toBe(true);
    } finally {
      await fixture.destroy();
    }
  });

  it('lets every listener hear every frame in order', async () => {
    const fixture = await fresh();
    try {
      const listeners = [await fixture.listen(), await fixture.listen(), await fixture.listen()];
      const texts = Array.from({ length: 200 }, (_, index) => `frame ${index}`);
      for (const text of texts) {
        expect(fixture.outlet.ready).toBe(true);
        fixture.outlet.write(toBoundaryFrame(Buffer.from(text)), 0);
      }
      for (const listener of listeners) {
        expect(await listener.heard(texts.length)).toEqual(texts);
        listener.close();
      }
    } finally {
      await fixture.destroy();
    }
  });
}
