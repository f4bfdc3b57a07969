/** Goal: the archive has the layout that the kernel unpacks, to the byte. */
import { describe, expect, it } from 'vitest';
import {
  cpioArchive,
  MODE_CHARACTER_DEVICE,
  MODE_FILE,
  MODE_FOLDER,
} from '../../../src/drill/qemu/cpio.ts';

/** A second reader of the format, written from its description. */
function entriesOf(
  archive: Buffer,
): { name: string; mode: number; data: string; device: number[] }[] {
  const entries = [];
  for (let at = 0; ; ) {
    expect(archive.toString('latin1', at, at + 6)).toBe('070701');
    const field = (index: number): number =>
      Number.parseInt(archive.toString('latin1', at + 6 + index * 8, at + 14 + index * 8), 16);
    const [mode, size, nameSize] = [field(1), field(6), field(11)];
    const name = archive.toString('utf8', at + 110, at + 110 + nameSize - 1);
    expect(archive[at + 110 + nameSize - 1]).toBe(0);
    if (name === 'TRAILER!!!') return entries;
    const dataAt = Math.ceil((at + 110 + nameSize) / 4) * 4;
    entries.push({
      name,
      mode,
      data: archive.toString('utf8', dataAt, dataAt + size),
      device: [field(9), field(10)],
    });
    at = Math.ceil((dataAt + size) / 4) * 4;
  }
}

describe('cpioArchive', () => {
  it('writes folders, files of any length and device nodes', () => {
    const contents = ['', 'a', 'ab', 'abc', 'abcd', 'abcde'];
    const archive = cpioArchive([
      { name: 'dev', mode: MODE_FOLDER },
      { name: 'dev/console', mode: MODE_CHARACTER_DEVICE, device: [5, 1] },
      ...contents.map((text, index) => ({
        name: 'f'.repeat(index + 1),
        mode: MODE_FILE,
        data: Buffer.from(text),
      })),
    ]);
    expect(archive.length % 4).toBe(0);
    const entries = entriesOf(archive);
    expect(entries.slice(0, 2)).toEqual([
      { name: 'dev', mode: 0o040755, data: '', device: [0, 0] },
      { name: 'dev/console', mode: 0o020600, data: '', device: [5, 1] },
    ]);
    expect(entries.slice(2).map(({ data }) => data)).toEqual(contents);
  });
});
