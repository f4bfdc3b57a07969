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

/** `ok` works, `slow` works but costs, `fails` means that protection cannot work. */
export type Finding = 'ok' | 'slow' | 'fails';

export interface HostCheck {
  readonly name: string;
  readonly finding: Finding;
  readonly text: string;
  /** What to do about it; null when there is nothing to do. */
  readonly remedy: string | null;
}

/** Oldest Node whose builds we run on. */
const NODE_MAJOR_MIN = 20;
/** CRC-32C of "123456789" (RFC 3720, appendix B.4). */
const CRC32C_CHECK_VALUE = 0xe3069283;
const REBUILD = 'Run `npm ci` in the checkout; it needs g++, make and python3.';

const require = createRequire(import.meta.url);

function checkNode(): HostCheck {
  const [major = 0] = process.versions.node.split('.').map(Number);
  const ok = major >= NODE_MAJOR_MIN;
  return {
    name: 'node',
    finding: ok ? 'ok' : 'fails',
    text: `Node ${process.versions.node}`,
    remedy: ok ? null : `Install Node ${NODE_MAJOR_MIN} or newer.`,
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

function checkPtrace(facts: HostFacts): HostCheck {
  const name = 'attaching to a machine';
  if (facts.ptraceCapability)
    return { name, finding: 'ok', text: 'CAP_SYS_PTRACE is held', remedy: null };
  if (facts.yamaScope <= 1)
    return {
      name,
      finding: 'ok',
      text: `machines of this user only, which must allow it (yama ptrace_scope ${facts.yamaScope})`,
      remedy: null,
    };
  return {
    name,
    finding: 'fails',
    text: `yama ptrace_scope is ${facts.yamaScope} and CAP_SYS_PTRACE is missing`,
    remedy: 'Set kernel.yama.ptrace_scope to 1 or lower, or grant CAP_SYS_PTRACE.',
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
export function examineHost(): { readonly facts: HostFacts | null; readonly checks: HostCheck[] } {
  const checks = [checkNode()];
  let facts: HostFacts | null = null;
  try {
    facts = hostFacts();
    checks.push(
      { name: 'native part', finding: 'ok', text: 'loads in this Node', remedy: null },
      checkTracker(facts),
      checkPtrace(facts),
      checkSimd(facts),
    );
  } catch (error) {
    const { message, remedy } = toRomulusError(error);
    checks.push({ name: 'native part', finding: 'fails', text: message, remedy });
  }
  checks.push(checkSimulator(), checkLz4(), checkCrc());
  return { facts, checks };
}
