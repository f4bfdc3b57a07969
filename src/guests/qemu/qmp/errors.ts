/**
 * The errors of a QMP connection: one code for each class of QEMU's own errors, with QEMU's own
 * text, and one for each way in which the connection itself can fail.
 */
import { type ErrorCode, RomulusError } from '../../../base/errors.ts';
import type { QmpErrorClass } from './messages.ts';

const CODES: Readonly<Record<QmpErrorClass, ErrorCode>> = {
  CommandNotFound: 'ERR_GUEST_QMP_COMMAND_NOT_FOUND',
  DeviceNotActive: 'ERR_GUEST_QMP_DEVICE_NOT_ACTIVE',
  DeviceNotFound: 'ERR_GUEST_QMP_DEVICE_NOT_FOUND',
  KVMMissingCap: 'ERR_GUEST_QMP_KVM_MISSING_CAP',
  GenericError: 'ERR_GUEST_QMP_REFUSED',
};

const REMEDIES: Readonly<Record<QmpErrorClass, string>> = {
  CommandNotFound: 'Use a QEMU that knows the command: `romulus doctor` names tested versions.',
  DeviceNotActive: 'Check with `query-block` and `query-balloon` what the machine really has.',
  DeviceNotFound: 'Check the device: it may have been unplugged meanwhile.',
  KVMMissingCap: 'Use a host kernel whose KVM has the ability, or another accelerator.',
  GenericError: 'QEMU says why in the text above; mend that and try again.',
};

/** What QEMU answered instead of doing it. */
export function refusedError(
  command: string,
  errorClass: QmpErrorClass,
  text: string,
): RomulusError {
  return new RomulusError(CODES[errorClass], `QEMU refused '${command}': ${text}`, {
    remedy: REMEDIES[errorClass],
    details: { command, qemuClass: errorClass, qemuText: text },
  });
}

/** Nobody listens at the path, or we may not connect. */
export function unreachableError(path: string, reason: string, cause?: unknown): RomulusError {
  return new RomulusError('ERR_GUEST_UNREACHABLE', `no QEMU monitor at ${path}: ${reason}`, {
    remedy:
      'Start QEMU with `-qmp unix:PATH,server=on,wait=off`, or correct the path or its permissions.',
    details: { path },
    ...(cause === undefined ? {} : { cause }),
  });
}

/** Somebody accepted the connection and said nothing. */
export function heldError(path: string, waitedMs: number): RomulusError {
  return new RomulusError(
    'ERR_GUEST_QMP_HELD',
    `the monitor at ${path} did not greet us within ${waitedMs} ms: another client holds it (QEMU serves one at a time), or QEMU is frozen`,
    {
      remedy:
        'End the other client (`ss -xp` shows it), or start QEMU with a second `-qmp unix:PATH2,server=on,wait=off` and name that one.',
      details: { path, waitedMs },
    },
  );
}

/** The other side does not speak QMP. */
export function nonsenseError(path: string, what: string): RomulusError {
  return new RomulusError('ERR_PROTOCOL_GUEST_CONTROL', `the monitor at ${path} sent ${what}`, {
    remedy: 'Check that the socket is a `-qmp` one of QEMU, not a serial port or a `-monitor`.',
    details: { path },
  });
}

/** The connection, or QEMU itself, is gone. */
export function lostError(path: string, reason: string, cause?: unknown): RomulusError {
  return new RomulusError('ERR_GUEST_LOST', `the machine at ${path} is lost: ${reason}`, {
    remedy: 'Check whether QEMU still runs; if it ended, start it or fail over.',
    details: { path },
    ...(cause === undefined ? {} : { cause }),
  });
}

/** An answer stayed out. */
export function timeoutError(path: string, command: string, timeoutMs: number): RomulusError {
  return new RomulusError(
    'ERR_TIMEOUT_GUEST_CONTROL',
    `QEMU at ${path} did not answer '${command}' within ${timeoutMs} ms`,
    {
      remedy:
        'Check that QEMU is not frozen (SIGSTOP, a hanging disk server) and that the host has CPU.',
      details: { path, command, timeoutMs },
    },
  );
}

/** Too many commands wait for earlier ones. */
export function tooManyError(path: string, commandsMax: number): RomulusError {
  return new RomulusError('ERR_LIMIT_GUEST_CONTROL', `too many commands wait for QEMU at ${path}`, {
    remedy: 'Wait for earlier commands to be answered.',
    details: { path, commandsMax },
  });
}

/** The monitor has no out-of-band execution. */
export function inBandOnlyError(path: string, command: string): RomulusError {
  return new RomulusError(
    'ERR_GUEST_QMP_IN_BAND_ONLY',
    `the monitor at ${path} cannot run '${command}' out of band`,
    {
      remedy: 'Give QEMU a `-qmp` socket of its own: multiplexed monitors lack out-of-band.',
      details: { path, command },
    },
  );
}
