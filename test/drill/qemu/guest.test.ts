/**
 * Goal: the test guest boots on every QEMU that we test with, its programs say what they should, and
 * its control line answers. Method: the real thing.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { kvmWorks, qemuVersions, requireQemu } from '../../support/qemu/require-qemu.ts';
import { startGuest } from '../../support/qemu/start-guest.ts';

const available = await requireQemu();
const versions = available ? await qemuVersions() : [];
const kvm = available && (await kvmWorks());
const BOOT_MS = 90_000;

describe.skipIf(!available)('the test guest', () => {
  it.each(versions)('runs its programs under QEMU $version', { timeout: BOOT_MS }, async (qemu) => {
    const guest = await startGuest({
      qemu: qemu.binary,
      memoryMib: 256,
      run: ['counter', 'pattern', 'dirty', 'work', 'shell'],
      kernelArgs: ['romulus.pattern=8/50', 'romulus.dirty=200/25ms'],
    });
    try {
      const says = (start: string): Promise<unknown> =>
        guest.serial.waitFor(start, (text) => text.startsWith(start), { withinMs: 20_000 });
      await Promise.all(['c 100', 'p ok', 'd ', 'w 2', 's 2'].map(says));
      expect(await guest.command('check')).toEqual([
        expect.stringMatching(/^ok 2048 pages generation \d+$/),
      ]);
      await guest.command('set dirty 50/10ms');
      const after = guest.serial.lines.length;
      await guest.serial.waitFor('the new rate', (text) => /^d \d+ 50$/.test(text), {
        withinMs: 10_000,
        after,
      });
      expect((await guest.command('dmesg')).join('\n')).toMatch(/Linux version/);
      await expect(guest.command('nonsense')).rejects.toMatchObject({ code: 'ERR_GUEST_COMMAND' });
      const texts = guest.serial.lines.map(({ text }) => text);
      const numbers = texts
        .filter((text) => text.startsWith('c '))
        .map((text) => Number(text.slice(2)));
      expect(numbers).toEqual(numbers.map((_number, index) => index + 1));
      expect(texts.filter((text) => text.includes('BAD') || text.startsWith('!'))).toEqual([]);
    } finally {
      await guest.stop();
    }
    expect(() => readFileSync(`/proc/${guest.pid}/stat`)).toThrow();
  });

  it('runs without any system', { timeout: BOOT_MS }, async () => {
    const guest = await startGuest({ memoryMib: 64, bare: true });
    try {
      await guest.serial.waitFor('c 20', (text) => text === 'c 20', { withinMs: 20_000 });
    } finally {
      await guest.stop();
    }
  });

  it.skipIf(!kvm)('runs without any system under KVM', { timeout: BOOT_MS }, async () => {
    const guest = await startGuest({ memoryMib: 64, bare: true, accelerator: 'kvm' });
    try {
      await guest.serial.waitFor('c 20', (text) => text === 'c 20', { withinMs: 60_000 });
    } finally {
      await guest.stop();
    }
  });
});
