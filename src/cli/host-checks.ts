/**
 * What `romulus doctor` looks at: each finding says what was tried, how it came out and what to do.
 * Everything is tried rather than looked up; nothing is changed on the host.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { toRomulusError } from '../base/errors.ts';
import { crc32c } from '../codec/checksum.ts';
import { type HostFacts, hostFacts } from '../native/host.ts';
import { SIM_EXECUTABLE } from '../native/load.ts';
import { type AttachTrial, missingTools, priorityToBeHad, tryToAttach } from './host-trials.ts';

/**
 * `ok` works, `slow` works but costs or not for every machine, `fails` means that protection cannot
 * work, `note` is of no consequence for what is installed here.
 */
export type Finding = 'ok' | 'slow' | 'fails' | 'note';

export interface HostCheck {
  readonly name: string;
  readonly finding: Finding;
  readonly text: string;
  /** What to do about it; null when there is nothing to do. */
  readonly remedy: string | null;
}

/** Oldest Node that we run on: `engines` of package.json. */
const NODE_MIN = { major: 20, minor: 19 } as const;
/** CRC-32C of "123456789" (RFC 3720, appendix B.4). */
const CRC32C_CHECK_VALUE = 0xe3069283;
const REBUILD = 'Run `npm ci` in the checkout; it needs g++, make and python3.';

const require = createRequire(import.meta.url);

/** @param version as `process.versions.node` has it. */
export function checkNode(version: string): HostCheck {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const ok = major > NODE_MIN.major || (major === NODE_MIN.major && minor >= NODE_MIN.minor);
  return {
    name: 'node',
    finding: ok ? 'ok' : 'fails',
    text: `Node ${version}`,
    remedy: ok ? null : `Install Node ${NODE_MIN.major}.${NODE_MIN.minor} or newer.`,
  };
}

function checkSimulator(): HostCheck {
  const ok = existsSync(SIM_EXECUTABLE);
  return {
    name: 'romulus-sim',
    finding: ok ? 'ok' : 'fails',
    text: ok ? 'the simulated machine is built' : 'the simulated machine is not built',
    remedy: ok ? null : REBUILD,
  };
}

/** Loads an optional native package; how it fails is part of the finding. */
function tryRequire(name: string): string | null {
  try {
    require(name);
    return null;
  } catch (error) {
    const [reason = ''] = (error instanceof Error ? error.message : String(error)).split('\n');
    return reason;
  }
}

function checkLz4(): HostCheck {
  const trouble = tryRequire('lz4');
  return {
    name: 'lz4',
    finding: trouble === null ? 'ok' : 'fails',
    text: trouble === null ? 'the native part of lz4 loads' : `lz4 does not load: ${trouble}`,
    remedy:
      trouble === null
        ? null
        : 'Run `npm rebuild lz4`; npm 12 builds it only when allowScripts names it.',
  };
}

function checkCrc(): HostCheck {
  if (crc32c(Buffer.from('123456789')) !== CRC32C_CHECK_VALUE)
    return {
      name: 'crc32c',
      finding: 'fails',
      text: 'CRC-32C gives a wrong check value',
      remedy: REBUILD,
    };
  const trouble = tryRequire('sse4_crc32');
  return {
    name: 'crc32c',
    finding: trouble === null ? 'ok' : 'slow',
    text:
      trouble === null
        ? 'CRC-32C runs in hardware'
        : `CRC-32C runs in software, about 14 times slower: ${trouble}`,
    remedy:
      trouble === null
        ? null
        : 'Run `npm rebuild sse4_crc32`; npm 12 builds it only when allowScripts names it.',
  };
}

function checkTracker(facts: HostFacts): HostCheck {
  const kernel = `Linux ${facts.kernelRelease}`;
  if (facts.userfaultfd && facts.pagemapScan)
    return {
      name: 'dirty tracking',
      finding: 'ok',
      text: `uffd-wp: userfaultfd and PAGEMAP_SCAN work (${kernel})`,
      remedy: null,
    };
  if (facts.softDirty)
    return {
      name: 'dirty tracking',
      finding: 'slow',
      text: `soft-dirty only: the machine stands still while its pages are scanned (${kernel})`,
      remedy: 'A kernel of 6.7 or newer with userfaultfd tracks while the machine runs.',
    };
  return {
    name: 'dirty tracking',
    finding: 'slow',
    text: `mprotect only, for simulated machines started with --tracker mprotect (${kernel})`,
    remedy:
      'Use Linux 6.7 or newer; in a container, allow the userfaultfd system call (seccomp) or set vm.unprivileged_userfaultfd=1.',
  };
}

/** What a trial of attaching says of this host. */
export function checkAttach(facts: HostFacts, { tried, error }: AttachTrial): HostCheck {
  const name = 'attaching to a machine';
  const how =
    tried === 'whole'
      ? 'tried with a process of this user'
      : 'inferred: the memory of a process of this user can be opened';
  const others = facts.ptraceCapability
    ? 'machines of other users too, since CAP_SYS_PTRACE is held'
    : 'machines of this user only';
  if (error === null) return { name, finding: 'ok', text: `${how}; ${others}`, remedy: null };
  const isYama = facts.yamaScope === 1 && !facts.ptraceCapability;
  // A simulated machine lets anybody of its user attach, unless something else is in the way.
  if (isYama && error.code === 'ERR_HOST_ATTACH_PERMISSION')
    return {
      name,
      finding: 'slow',
      text: 'simulated machines only: kernel.yama.ptrace_scope is 1 and CAP_SYS_PTRACE is missing',
      remedy: 'For a QEMU set kernel.yama.ptrace_scope to 0, or grant CAP_SYS_PTRACE.',
    };
  return {
    name,
    finding: 'fails',
    text: `a process of this user cannot be attached to (yama ptrace_scope ${facts.yamaScope}): ${error.message}`,
    remedy:
      'Set kernel.yama.ptrace_scope to 0, or grant CAP_SYS_PTRACE; in a container, allow the ptrace system call (seccomp).',
  };
}

function checkPriority(priority: 'rr' | 'nice' | 'none'): HostCheck {
  const name = 'priority of heartbeats';
  if (priority === 'rr')
    return { name, finding: 'ok', text: 'real-time priority is to be had', remedy: null };
  return {
    name,
    finding: 'slow',
    text:
      priority === 'nice'
        ? 'no real-time priority, only a better niceness: on a saturated host a living node may look dead'
        : 'neither real-time priority nor a better niceness: on a busy host a living node may look dead',
    remedy:
      'Run the nodes as root, or grant CAP_SYS_NICE (systemd: AmbientCapabilities=CAP_SYS_NICE).',
  };
}

function checkTools(missing: readonly string[]): HostCheck {
  const ok = missing.length === 0;
  return {
    name: 'build tools',
    finding: ok ? 'ok' : 'note',
    text: ok ? 'g++ with C++20, make and python3 are here' : `missing: ${missing.join(', ')}`,
    remedy: ok ? null : 'Needed for `npm ci` alone: on Debian, apt-get install g++ make python3.',
  };
}

function checkSimd(facts: HostFacts): HostCheck {
  return {
    name: 'vector unit',
    finding: facts.simd === 'scalar' ? 'slow' : 'ok',
    text: `page kernels run as ${facts.simd} on ${facts.cores} CPUs`,
    remedy: facts.simd === 'scalar' ? 'A CPU with AVX2 encodes pages several times faster.' : null,
  };
}

/** All findings, the decisive ones first. */
export async function examineHost(): Promise<{
  readonly facts: HostFacts | null;
  readonly checks: HostCheck[];
}> {
  const checks = [checkNode(process.versions.node)];
  let facts: HostFacts | null = null;
  try {
    facts = hostFacts();
    checks.push(
      { name: 'native part', finding: 'ok', text: 'loads in this Node', remedy: null },
      checkTracker(facts),
      checkAttach(facts, tryToAttach(facts.userfaultfd && facts.pagemapScan)),
      checkPriority(await priorityToBeHad()),
      checkSimd(facts),
    );
  } catch (error) {
    const { message, remedy } = toRomulusError(error);
    checks.push({ name: 'native part', finding: 'fails', text: message, remedy });
  }
  checks.push(checkSimulator(), checkLz4(), checkCrc(), checkTools(missingTools()));
  return { facts, checks };
}
