/** What every kind of link must do, whatever carries its bytes. */
import { afterEach, describe, expect, it } from 'vitest';
import { RomulusError } from '../../src/base/errors.ts';
import { asEpoch, asGeneration } from '../../src/base/units.ts';
import { encodeFrame, type Frame } from '../../src/codec/frame.ts';
import { decodeMessage, encodeMessage } from '../../src/codec/messages.ts';
import type { FrameLinkOptions } from '../../src/links/frame-link.ts';
import type { Link, LinkEnd } from '../../src/links/link.ts';

export interface LinkFixture {
  readonly primary: Link;
  readonly backup: Link;
  /** Makes the backup's end receive bytes that the primary's end never framed. */
  readonly injectIntoBackup: (bytes: Uint8Array) => void;
  /** Frees whatever else the pair needed. */
  readonly cleanUp: () => Promise<void>;
}

/** The value, which the test knows to be there. */
export function present<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('something that must be there is not');
  return value;
}

/** A `pages` frame of the given payload. */
export function frameOf(epoch: number, payload: Uint8Array): Uint8Array[] {
  const header = { kind: 'pages', flags: 0, generation: asGeneration(1), epoch: asEpoch(epoch) };
  return encodeFrame({ ...header, kind: 'pages' }, payload);
}

/** Collects what comes out of one end, and lets a test wait for it. */
export class LinkProbe {
  readonly frames: Frame[] = [];
  readonly ends: LinkEnd[] = [];
  #wake: (() => void) | undefined;

  constructor(link: Link) {
    link.onMessage((frame) => {
      this.frames.push(frame);
      this.#wake?.();
    });
    link.onClose((end) => {
      this.ends.push(end);
      this.#wake?.();
    });
  }

  /** Waits until so many frames have come, or the link has ended. */
  async framesCome(count: number): Promise<Frame[]> {
    while (this.frames.length < count && this.ends.length === 0) await this.#something();
    return this.frames;
  }

  async end(): Promise<LinkEnd> {
    for (;;) {
      const end = this.ends[0];
      if (end !== undefined) return end;
      await this.#something();
    }
  }

  #something(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }
}

export function linkContract(
  name: string,
  makePair: (options: FrameLinkOptions) => Promise<LinkFixture>,
): void {
  describe(`${name} keeps the contract of a link`, () => {
    const fixtures: LinkFixture[] = [];
    const pair = async (options: FrameLinkOptions = {}): Promise<LinkFixture> => {
      const fixture = await makePair(options);
      fixtures.push(fixture);
      return fixture;
    };
    afterEach(async () => {
      for (const { primary, backup, cleanUp } of fixtures.splice(0)) {
        primary.destroy();
        backup.destroy();
        await cleanUp();
      }
    });

    it('carries frames both ways, in order, of any size', async () => {
      const { primary, backup } = await pair();
      const [there, back] = [new LinkProbe(backup), new LinkProbe(primary)];
      const sizes = [0, 1, 100, 16_384, 16_385, 65_536, 1_048_576, 3_000_000];
      for (const size of sizes) {
        primary.send(frameOf(size + 1, new Uint8Array(size).fill(size % 251)));
        backup.send(frameOf(size + 1, new Uint8Array(size).fill(size % 241)));
      }
      const received = await there.framesCome(sizes.length);
      expect(received.map(({ epoch, payload }) => [epoch, payload.byteLength])).toEqual(
        sizes.map((size) => [size + 1, size]),
      );
      for (const { payload } of received) {
        expect(payload.every((byte) => byte === payload.byteLength % 251)).toBe(true);
      }
      expect(
        (await back.framesCome(sizes.length)).map((frame) => frame.payload.byteLength),
      ).toEqual(sizes);
    });

    it('takes a frame in many parts', async () => {
      const { primary, backup } = await pair();
      const probe = new LinkProbe(backup);
      const parts = Array.from({ length: 5000 }, (_, index) => Buffer.alloc(100, index % 256));
      const header = { kind: 'disk', flags: 0, generation: asGeneration(0), epoch: asEpoch(1) };
      primary.send(encodeFrame({ ...header, kind: 'disk' }, parts));
      const [frame] = await probe.framesCome(1);
      expect(Buffer.concat(parts).equals(frame?.payload ?? Buffer.alloc(0))).toBe(true);
    });

    it('counts frames and bytes on both ends', async () => {
      const { primary, backup } = await pair();
      const probe = new LinkProbe(backup);
      primary.send(frameOf(1, new Uint8Array(60)));
      primary.send(frameOf(2, new Uint8Array(100_000)));
      await probe.framesCome(2);
      const bytes = 40 + 60 + 40 + 100_000;
      expect(primary.counters).toMatchObject({ framesSent: 2, bytesSent: bytes });
      expect(backup.counters).toMatchObject({ framesReceived: 2, bytesReceived: bytes });
    });

    it('misses nothing that is sent before the receiver listens', async () => {
      const { primary, backup } = await pair();
      primary.send(frameOf(1, new Uint8Array(10)));
      await new Promise((resolve) => setTimeout(resolve, 20));
      const [frame] = await new LinkProbe(backup).framesCome(1);
      expect(frame?.epoch).toBe(1);
    });

    it('shows its queue, says when it is full and when it has drained', async () => {
      const queue = { highBytes: 4_000_000, lowBytes: 1_000_000, maxBytes: 40_000_000 };
      const { primary, backup } = await pair({ queue });
      const drained = new Promise<number>((resolve) => {
        primary.onDrain(() => resolve(primary.queuedBytes));
      });
      const payload = new Uint8Array(1_000_000);
      expect(primary.send(frameOf(1, payload))).toBe(true);
      expect(primary.queuedBytes).toBe(1_000_040);
      let sent = 1;
      while (primary.send(frameOf(sent + 1, payload))) sent += 1;
      expect(primary.queuedBytes).toBeGreaterThanOrEqual(4_000_000);
      const probe = new LinkProbe(backup);
      expect(await drained).toBeLessThanOrEqual(1_000_000);
      await probe.framesCome(sent + 1);
      expect(primary.send(frameOf(99, new Uint8Array(1)))).toBe(true);
    });

    it('refuses what exceeds the bound of the queue, and lives on', async () => {
      const queue = { highBytes: 1000, lowBytes: 100, maxBytes: 3_000_000 };
      const { primary, backup } = await pair({ queue });
      const payload = new Uint8Array(2_000_000);
      primary.send(frameOf(1, payload));
      const before = primary.queuedBytes;
      expect(() => primary.send(frameOf(2, payload))).toThrow(
        expect.objectContaining({ code: 'ERR_LIMIT_LINK_QUEUE' }),
      );
      expect(primary.queuedBytes).toBe(before);
      const [frame] = await new LinkProbe(backup).framesCome(1);
      expect(frame?.payload.byteLength).toBe(2_000_000);
    });

    it('stops reading while paused, and goes on where it stopped', async () => {
      const { primary, backup } = await pair();
      const probe = new LinkProbe(backup);
      primary.send(frameOf(1, new Uint8Array(10)));
      await probe.framesCome(1);
      backup.pause();
      const payload = new Uint8Array(1_000_000);
      for (let epoch = 2; epoch <= 21; epoch += 1) primary.send(frameOf(epoch, payload));
      await new Promise((resolve) => setTimeout(resolve, 50));
      expect(probe.frames.length).toBeLessThan(15);
      backup.resume();
      expect((await probe.framesCome(21)).map((frame) => frame.epoch)).toEqual(
        Array.from({ length: 21 }, (_, index) => index + 1),
      );
    });

    it('delivers what is queued before it closes, and both ends know it was on purpose', async () => {
      const { primary, backup } = await pair();
      const [there, here] = [new LinkProbe(backup), new LinkProbe(primary)];
      primary.send(frameOf(1, new Uint8Array(2_000_000)));
      primary.close();
      expect(primary.isOpen).toBe(false);
      expect(await there.end()).toMatchObject({ kind: 'closed', error: null });
      expect(there.frames).toHaveLength(1);
      expect(await here.end()).toMatchObject({ kind: 'closed' });
    });

    it('says why, when it is closed with an error', async () => {
      const { primary, backup } = await pair();
      const probe = new LinkProbe(backup);
      const error = new RomulusError('ERR_PROTOCOL_BACKUP_PRESENT', 'there is a backup already', {
        remedy: 'Stop the other backup first.',
      });
      primary.close(error);
      const [frame] = await probe.framesCome(1);
      expect(decodeMessage(present(frame))).toEqual({ kind: 'error', ...plainError(error) });
      expect(await probe.end()).toMatchObject({ kind: 'closed' });
    });

    it('tells a break from a farewell', async () => {
      const { primary, backup } = await pair();
      const [there, here] = [new LinkProbe(backup), new LinkProbe(primary)];
      primary.destroy();
      expect(await there.end()).toMatchObject({ kind: 'reset' });
      expect(await here.end()).toMatchObject({ kind: 'closed' });
    });

    it('ends once, and sends nothing more', async () => {
      const { primary, backup } = await pair();
      const [there, here] = [new LinkProbe(backup), new LinkProbe(primary)];
      primary.close();
      primary.close();
      primary.destroy();
      expect(primary.send(frameOf(1, new Uint8Array(1)))).toBe(false);
      await there.end();
      await here.end();
      backup.destroy();
      await new Promise((resolve) => setTimeout(resolve, 20));
      expect(there.ends).toHaveLength(1);
      expect(here.ends).toHaveLength(1);
      const late = new Promise<LinkEnd>((resolve) => {
        primary.onClose(resolve);
      });
      expect((await late).kind).toBe('closed');
    });

    const bad: readonly [string, string, () => Uint8Array][] = [
      ['garbage', 'ERR_PROTOCOL_MAGIC', () => Buffer.from('GET / HTTP/1.1\r\n\r\n')],
      [
        'a damaged payload',
        'ERR_INTEGRITY_FRAME_CRC',
        () => {
          const bytes = Buffer.concat(frameOf(1, Uint8Array.of(1, 2, 3)));
          bytes[41] = 9;
          return bytes;
        },
      ],
    ];
    it.each(bad)('ends with one error on %s, and tells the other side', async (_n, code, bytes) => {
      const { primary, backup, injectIntoBackup } = await pair();
      const [there, here] = [new LinkProbe(backup), new LinkProbe(primary)];
      injectIntoBackup(bytes());
      expect(await there.end()).toMatchObject({ kind: 'protocol', error: { code } });
      expect(there.frames).toEqual([]);
      const [frame] = await here.framesCome(1);
      expect(decodeMessage(present(frame))).toMatchObject({ kind: 'error', code });
    });

    it('does not rely on how the bytes are cut', async () => {
      const { primary, backup, injectIntoBackup } = await pair();
      const probe = new LinkProbe(backup);
      const stream = Buffer.concat([
        ...frameOf(1, new Uint8Array(1000)),
        ...encodeMessage(
          { kind: 'applied', epoch: asEpoch(2), instance: 'b' },
          { generation: asGeneration(1) },
        ),
      ]);
      for (let start = 0; start < stream.byteLength; start += 333) {
        injectIntoBackup(stream.subarray(start, start + 333));
      }
      expect((await probe.framesCome(2)).map((frame) => frame.kind)).toEqual(['pages', 'applied']);
      expect(primary.isOpen).toBe(true);
    });
  });
}

function plainError(error: RomulusError): { code: string; message: string; remedy: string } {
  return { code: error.code, message: error.message, remedy: error.remedy };
}
