/** Goal: only the file that was found is opened, whatever is at its path by now, and no descriptor stays. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readlinkSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FileBytes } from '../../src/disks/file-bytes.ts';

let directory: string;
let path: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'romulus-file-'));
  path = join(directory, 'disk');
});

afterEach(() => {
  rmSync(directory, { recursive: true, force: true });
});

/** Descriptors of ours that lead into the test's directory. */
function openHere(): number {
  return readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith(directory);
    } catch {
      // The one that this list was read through.
      return false;
    }
  }).length;
}

function identityOf(file: string): { device: bigint; inode: bigint } {
  const { dev, ino } = statSync(file, { bigint: true });
  return { device: dev, inode: ino };
}

describe("a disk's file", () => {
  it('is opened when it is the one that was found', () => {
    writeFileSync(path, 'disk');
    const file = FileBytes.open({ path, identity: identityOf(path) });
    expect(file.bytes).toBe(4);
    expect(openHere()).toBe(1);
    file.close();
    expect(openHere()).toBe(0);
  });

  it.each([
    ['another file', () => writeFileSync(path, 'another')],
    ['a pipe that nobody writes to', () => execFileSync('mkfifo', [path])],
    ['a directory', () => execFileSync('mkdir', [path])],
    ['nothing', () => undefined],
  ])('is refused when it is %s by now', (_, replace) => {
    const found = join(directory, 'found');
    writeFileSync(found, 'disk');
    replace();
    const refusal = expect.objectContaining({ code: 'ERR_DISK_READ' }) as Error;
    expect(() => FileBytes.open({ path, identity: identityOf(found) })).toThrow(refusal);
    expect(openHere()).toBe(0);
  });

  it('is no pipe, whatever was found', () => {
    execFileSync('mkfifo', [path]);
    const refusal = expect.objectContaining({ code: 'ERR_DISK_READ' }) as Error;
    expect(() => FileBytes.open({ path })).toThrow(refusal);
    expect(openHere()).toBe(0);
  });
});
