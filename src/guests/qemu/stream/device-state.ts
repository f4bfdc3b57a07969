/**
 * Checks what `xen-save-devices-state` wrote, as far as that is possible from outside: the header,
 * then whole sections, each with its footer, to the mark that ends them. A state cut short or with
 * a damaged head or footer is found before a QEMU is touched; damage inside a device's own data is
 * not (the frames that carry it have checksums).
 *
 * Sections have no lengths: a section ends at a footer with its id that is followed by the next
 * section's head or the end. A device's data may look like that by chance, so a chain that leads
 * nowhere is followed back, for at most CHAIN_STEPS_MAX steps.
 */
import { RomulusError } from '../../../base/errors.ts';
import { SECTION, STREAM_HEADER_BYTES, STREAM_MAGIC, STREAM_VERSION } from './format.ts';

/** A device's section in a device state. */
export interface DeviceSection {
  readonly id: number;
  readonly name: string;
  readonly instance: number;
  readonly offset: number;
  readonly bytes: number;
}

/** Most sections that a device state may have. */
export const DEVICE_SECTIONS_MAX = 4096;
const CHAIN_STEPS_MAX = 65_536;
const FOOTER_BYTES = 5;
/** The byte that ends the sections. */
const END_MARK_BYTES = 1;

interface Head {
  readonly id: number;
  readonly name: string;
  readonly instance: number;
  /** Where the section's data begins. */
  readonly dataOffset: number;
}

/**
 * The sections of a device state, in order.
 * @throws {RomulusError} ERR_GUEST_STATE_CORRUPT when it is not a whole device state.
 */
export function checkDeviceState(state: Uint8Array): readonly DeviceSection[] {
  const view = new DataView(state.buffer, state.byteOffset, state.byteLength);
  if (state.byteLength < STREAM_HEADER_BYTES || view.getUint32(0) !== STREAM_MAGIC) {
    throw corrupt('does not begin with the magic number', 0);
  }
  const version = view.getUint32(4);
  if (version !== STREAM_VERSION) throw corrupt(`has version ${version}`, 4);
  const first = headAt(view, state, STREAM_HEADER_BYTES);
  if (first === null) throw corrupt('has no section', STREAM_HEADER_BYTES);

  // A path of sections: for each, where it starts and where its footer is being tried.
  const path: { readonly offset: number; readonly head: Head; tried: number }[] = [
    { offset: STREAM_HEADER_BYTES, head: first, tried: first.dataOffset },
  ];
  let farthestOffset = STREAM_HEADER_BYTES;
  for (let steps = 0; steps < CHAIN_STEPS_MAX; steps += 1) {
    const section = path.at(-1);
    if (section === undefined) break;
    const footer = footerFrom(view, state, section.tried, section.head.id);
    if (footer < 0) {
      path.pop();
      continue;
    }
    section.tried = footer + 1;
    const nextOffset = footer + FOOTER_BYTES;
    if (state[nextOffset] === SECTION.endOfSections && nextOffset + 1 === state.byteLength) {
      return path.map(({ offset, head, tried }) => ({
        id: head.id,
        name: head.name,
        instance: head.instance,
        offset,
        bytes: tried - 1 + FOOTER_BYTES - offset,
      }));
    }
    const head = headAt(view, state, nextOffset);
    if (head === null || path.length === DEVICE_SECTIONS_MAX) continue;
    farthestOffset = Math.max(farthestOffset, nextOffset);
    path.push({ offset: nextOffset, head, tried: head.dataOffset });
  }
  throw corrupt('is damaged or cut short in the section that begins', farthestOffset);
}

/** The device sections without the mark that ends them: what follows the RAM in a stream. */
export function deviceSectionsOf(state: Uint8Array): Uint8Array {
  checkDeviceState(state);
  return state.subarray(STREAM_HEADER_BYTES, state.byteLength - END_MARK_BYTES);
}

function headAt(view: DataView, state: Uint8Array, offset: number): Head | null {
  if (state[offset] !== SECTION.full || offset + 6 > state.byteLength) return null;
  const id = view.getUint32(offset + 1);
  const nameBytes = state[offset + 5] ?? 0;
  const dataOffset = offset + 6 + nameBytes + 8;
  if (nameBytes === 0 || dataOffset > state.byteLength) return null;
  const nameView = state.subarray(offset + 6, offset + 6 + nameBytes);
  if (!nameView.every((byte) => byte >= 0x20 && byte < 0x7f)) return null;
  return {
    id,
    name: String.fromCharCode(...nameView),
    instance: view.getUint32(dataOffset - 8),
    dataOffset,
  };
}

function footerFrom(view: DataView, state: Uint8Array, from: number, id: number): number {
  for (let at = from; ; at += 1) {
    at = state.indexOf(SECTION.footer, at);
    // Even the last footer is followed by one byte.
    if (at < 0 || at + FOOTER_BYTES >= state.byteLength) return -1;
    if (view.getUint32(at + 1) === id) return at;
  }
}

function corrupt(what: string, offset: number): RomulusError {
  return new RomulusError('ERR_GUEST_STATE_CORRUPT', `the device state ${what} (byte ${offset})`, {
    remedy: 'Use an earlier checkpoint, or synchronise the backup anew.',
    details: { offset },
  });
}
