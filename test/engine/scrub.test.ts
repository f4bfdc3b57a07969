/** Goal: two digests are compared only when they are of the same epoch. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { RomulusError } from '../../src/base/errors.ts';
import { asEpoch } from '../../src/base/units.ts';
import { digestText, Scrub, SCRUB_WAIT_MS } from '../../src/engine/scrub.ts';

const [seven, eight] = [asEpoch(7), asEpoch(8)];

beforeEach(() => {
  vi.useFakeTimers();
});

afterEach(() => {
  vi.useRealTimers();
});

describe('a comparison of the images', () => {
  it('waits for both digests, in whatever order they come', async () => {
    const scrub = new Scrub();
    const result = scrub.start();
    expect(scrub.wanted).toBe(true);
    scrub.begin(seven);
    expect(scrub.wanted).toBe(false);
    scrub.noteBackup(seven, digestText(255n));
    scrub.notePrimary(seven, 255n);
    expect(await result).toEqual({
      epoch: 7,
      primary: '00000000000000ff',
      backup: '00000000000000ff',
      match: true,
    });
  });

  it('tells of a difference', async () => {
    const scrub = new Scrub();
    const result = scrub.start();
    scrub.begin(seven);
    scrub.notePrimary(seven, 1n);
    scrub.noteBackup(seven, digestText(2n));
    expect(await result).toMatchObject({ match: false });
  });

  it('moves on when the epoch was skipped or the answer is of another', async () => {
    const scrub = new Scrub();
    const result = scrub.start();
    scrub.begin(seven);
    scrub.skipped(seven);
    scrub.notePrimary(seven, 1n);
    expect(scrub.wanted).toBe(true);
    scrub.begin(seven);
    scrub.notePrimary(seven, 1n);
    scrub.noteBackup(eight, digestText(1n));
    expect(scrub.wanted).toBe(true);
    scrub.begin(eight);
    scrub.noteBackup(eight, digestText(5n));
    scrub.notePrimary(eight, 5n);
    expect(await result).toMatchObject({ epoch: 8, match: true });
  });

  it('is one at a time, and bounded', async () => {
    const scrub = new Scrub();
    const result = scrub.start();
    await expect(scrub.start()).rejects.toMatchObject({ code: 'ERR_LIMIT_SCRUB' });
    const late = expect(result).rejects.toMatchObject({ code: 'ERR_TIMEOUT_SCRUB' });
    vi.advanceTimersByTime(SCRUB_WAIT_MS);
    await late;
    const again = scrub.start();
    scrub.fail(new RomulusError('ERR_TRANSPORT_NO_BACKUP', 'gone', { remedy: 'wait' }));
    await expect(again).rejects.toMatchObject({ code: 'ERR_TRANSPORT_NO_BACKUP' });
  });
});
