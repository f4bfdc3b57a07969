import { describe, expect, it } from 'vitest';
import { RomulusError } from '../../src/base/errors.ts';
import { Prng } from '../../src/base/prng.ts';
import type { Link } from '../../src/links/link.ts';
import { memoryLinkPair } from '../../src/links/memory.ts';
import { Redialer, type LinkDown } from '../../src/links/redialer.ts';
import { present } from '../contracts/link.ts';

const REFUSED = new RomulusError('ERR_TRANSPORT_REFUSED', 'nobody there', { remedy: 'Start it.' });

/** Dials by a script; `next` resolves at the next event. */
function harness(script: (attempt: number) => Promise<Link>): {
  redialer: Redialer;
  downs: LinkDown[];
  links: Link[];
  attempts: () => number;
  until: (done: () => boolean) => Promise<void>;
} {
  const downs: LinkDown[] = [];
  const links: Link[] = [];
  let attempts = 0;
  let wake: (() => void) | undefined;
  const redialer = new Redialer({
    prng: new Prng(1),
    backoff: { firstMs: 2, maxMs: 16 },
    dial: () => {
      attempts += 1;
      return script(attempts);
    },
    onLink: (link) => {
      links.push(link);
      wake?.();
    },
    onDown: (down) => {
      downs.push(down);
      wake?.();
    },
  });
  const until = async (done: () => boolean): Promise<void> => {
    while (!done()) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  };
  return { redialer, downs, links, attempts: () => attempts, until };
}

describe('Redialer', () => {
  it('waits longer after each failure, up to a bound, with jitter from its seed', async () => {
    const run = async (): Promise<number[]> => {
      const { redialer, downs, until } = harness(() => Promise.reject(REFUSED));
      redialer.redialNow();
      await until(() => downs.length === 6);
      redialer.stop();
      expect(downs.map(({ kind, failures }) => [kind, failures])).toEqual(
        [1, 2, 3, 4, 5, 6].map((failures) => ['refused', failures]),
      );
      return downs.map((down) => down.nextDialMs);
    };
    const delays = await run();
    [2, 4, 8, 16, 16, 16].forEach((fullMs, index) => {
      expect(delays[index]).toBeGreaterThanOrEqual(fullMs / 2);
      expect(delays[index]).toBeLessThanOrEqual(fullMs);
    });
    expect(await run()).toEqual(delays);
  });

  it('dials again when a link ends, and says how it ended', async () => {
    const pairs = [memoryLinkPair(), memoryLinkPair()];
    const { redialer, downs, links, until } = harness((attempt) =>
      Promise.resolve(present(pairs[attempt - 1]).backup),
    );
    redialer.redialNow();
    await until(() => links.length === 1);
    expect(redialer.link).toBe(links[0]);
    pairs[0]?.primary.destroy();
    await until(() => links.length === 2);
    expect(downs).toMatchObject([{ kind: 'reset', failures: 0 }]);
    expect(redialer.link).toBe(links[1]);
    redialer.stop();
  });

  it('does not dial twice at a time', async () => {
    const { redialer, links, attempts, until } = harness(() =>
      Promise.resolve(memoryLinkPair().backup),
    );
    redialer.redialNow();
    redialer.redialNow();
    await until(() => links.length === 1);
    redialer.redialNow();
    expect(attempts()).toBe(1);
    redialer.stop();
  });

  it('keeps no link that comes after it was stopped', async () => {
    const { backup } = memoryLinkPair();
    let arrive: ((link: Link) => void) | undefined;
    const { redialer, links, downs } = harness(
      () =>
        new Promise((resolve) => {
          arrive = resolve;
        }),
    );
    redialer.redialNow();
    redialer.stop();
    arrive?.(backup);
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(links).toEqual([]);
    expect(downs).toEqual([]);
    expect(backup.isOpen).toBe(false);
  });
});
