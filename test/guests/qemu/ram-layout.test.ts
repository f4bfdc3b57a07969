import { describe, expect, it } from 'vitest';
import { parseMaps, parseRamBlocks, placeBlocks } from '../../../src/guests/qemu/ram-layout.ts';

const LISTED_BY_7_2 = [
  '              Block Name    PSize              Offset               Used              Total',
  '                  pc.ram    4 KiB  0x0000000000000000 0x0000000010000000 0x0000000010000000',
  '    /rom@etc/acpi/tables    4 KiB  0x0000000011100000 0x0000000000020000 0x0000000000200000',
  '                 pc.bios    4 KiB  0x0000000010000000 0x0000000000040000 0x0000000000040000',
  '0000:00:01.0/virtio-net-pci.rom    4 KiB  0x0000000010080000 0x0000000000040000 0x0000000000040000',
].join('\r\n');
const LISTED_BY_11_1 = [
  '              Block Name    PSize              Offset               Used              Total                HVA  RO',
  '                  pc.ram    4 KiB  0x0000000000000000 0x0000000010000000 0x0000000010000000 0x00007f0000000000  rw',
  '                 pc.bios    4 KiB  0x0000000010000000 0x0000000000040000 0x0000000000040000 0x00007f0020000000  ro',
].join('\r\n');

/** Lines of a maps file: a block of this size at this address, with QEMU's guard page behind it. */
function mapped(address: number, bytes: number, permissions = 'rw-p'): string {
  const hex = (value: number): string => value.toString(16);
  const end = address + bytes;
  return (
    `${hex(address)}-${hex(end)} ${permissions} 00000000 00:00 0 \n` +
    `${hex(end)}-${hex(end + 4096)} ---p 00000000 00:00 0 \n`
  );
}

describe('parseRamBlocks', () => {
  it('reads the table of a QEMU that tells no addresses', () => {
    const blocks = parseRamBlocks(LISTED_BY_7_2);
    expect(blocks.map(({ name }) => name)).toEqual([
      'pc.ram',
      '/rom@etc/acpi/tables',
      'pc.bios',
      '0000:00:01.0/virtio-net-pci.rom',
    ]);
    expect(blocks[1]).toEqual({
      name: '/rom@etc/acpi/tables',
      usedBytes: 0x20000,
      totalBytes: 0x200000,
      address: null,
    });
  });

  it('reads the addresses of a QEMU that tells them', () => {
    const blocks = parseRamBlocks(LISTED_BY_11_1);
    expect(blocks.map(({ address }) => address)).toEqual([0x7f0000000000n, 0x7f0020000000n]);
  });

  it('refuses a text that is no such table', () => {
    expect(() => parseRamBlocks('unknown command')).toThrow(
      expect.objectContaining({ code: 'ERR_PROTOCOL_GUEST_CONTROL' }),
    );
  });

  it('refuses a block that uses more than it has', () => {
    const line = '  x    4 KiB  0x0000000000000000 0x0000000000002000 0x0000000000001000';
    expect(() => parseRamBlocks(line)).toThrow(
      expect.objectContaining({ code: 'ERR_PROTOCOL_GUEST_CONTROL' }),
    );
  });
});

describe('placeBlocks', () => {
  const blocks = parseRamBlocks(LISTED_BY_7_2);

  it('finds blocks by size, alignment and guard page, and leaves equal sizes to their bytes', () => {
    const maps = parseMaps(
      mapped(0x7f0000000000, 0x200000) +
        mapped(0x7f0000400000, 0x10000000) +
        mapped(0x7f0020000000, 0x40000) +
        mapped(0x7f0020200000, 0x40000) +
        // Of the right size, but not where QEMU would put a block.
        mapped(0x7f0020401000, 0x40000),
    );
    const { placed, sameSized } = placeBlocks(blocks, maps);
    expect(placed.map(({ name, address }) => [name, address])).toEqual([
      ['pc.ram', 0x7f0000400000n],
      ['/rom@etc/acpi/tables', 0x7f0000000000n],
    ]);
    expect(sameSized).toHaveLength(1);
    expect(sameSized[0]?.blocks.map(({ name }) => name)).toEqual([
      'pc.bios',
      '0000:00:01.0/virtio-net-pci.rom',
    ]);
    // The kernel hands addresses out from the top down.
    expect(sameSized[0]?.candidates.map(({ start }) => start)).toEqual([
      0x7f0020200000n,
      0x7f0020000000n,
    ]);
  });

  it('names the block that is nowhere', () => {
    const maps = parseMaps(mapped(0x7f0000400000, 0x10000000));
    expect(() => placeBlocks(blocks, maps)).toThrow(
      expect.objectContaining({ code: 'ERR_GUEST_RAM_LAYOUT' }),
    );
  });

  it('checks the addresses that QEMU tells', () => {
    const told = parseRamBlocks(LISTED_BY_11_1);
    expect(() => placeBlocks(told, parseMaps(mapped(0x7f0000000000, 0x10000000)))).toThrow(
      expect.objectContaining({ code: 'ERR_GUEST_RAM_LAYOUT' }),
    );
  });
});
