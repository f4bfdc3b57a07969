/**
 * CPU features as bitmasks. A guest that has seen a feature goes on using it, so a backup's CPU must
 * have every bit of the source's: (source & backup) == source, word by word. More bits do no harm.
 *
 * The words are those that the guest sees (`feature-words` of the vCPU), after QEMU took away what
 * the host lacks. The backup's are read from a vCPU made there with the same machine type and -cpu.
 */
import { z } from 'zod';
import { property } from '../qmp/commands.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';
import type { FeatureWord } from './profile.ts';

const wordsSchema = z.array(
  z.object({
    'cpuid-register': z.enum(['EAX', 'EBX', 'ECX', 'EDX', 'ESP', 'EBP', 'ESI', 'EDI']),
    'cpuid-input-eax': z.number().int().nonnegative(),
    'cpuid-input-ecx': z.number().int().nonnegative().optional(),
    features: z.number().int().min(0).max(0xffff_ffff),
  }),
);

/** The words of a vCPU that have any bit set; none for CPUs that are not x86. */
export async function readFeatureWords(client: QmpClient, cpuPath: string): Promise<FeatureWord[]> {
  const { data } = wordsSchema.safeParse(await property(client, cpuPath, 'feature-words'));
  return (data ?? [])
    .filter(({ features }) => features !== 0)
    .map((word) => ({
      leaf: word['cpuid-input-eax'],
      subleaf: word['cpuid-input-ecx'] ?? null,
      register: word['cpuid-register'],
      bits: word.features,
    }));
}

/** Names of the features that the source's CPU has and the backup's lacks, sorted; empty fits. */
export function missingFeatures(
  source: readonly FeatureWord[],
  backup: readonly FeatureWord[],
): string[] {
  const have = new Map(backup.map((word) => [wordKey(word), word.bits]));
  return source
    .flatMap((word) => {
      const lacking = (word.bits & ~(have.get(wordKey(word)) ?? 0)) >>> 0;
      return bitsOf(lacking).map((bit) => featureName(word, bit));
    })
    .sort();
}

function wordKey({ leaf, subleaf, register }: FeatureWord): string {
  return `${leaf.toString(16)}.${subleaf ?? 0}.${register}`;
}

function bitsOf(word: number): number[] {
  return Array.from({ length: 32 }, (_, bit) => bit).filter((bit) => ((word >>> bit) & 1) === 1);
}

/** A feature's name as -cpu spells it, or its place in CPUID where it has none here. */
export function featureName(word: FeatureWord, bit: number): string {
  const names = FEATURE_NAMES[wordKey(word)]?.split(' ');
  const name = names?.[bit];
  if (name !== undefined && name !== '-') return name;
  const subleaf = word.subleaf === null ? '' : `.${word.subleaf}`;
  return `CPUID.${word.leaf.toString(16).toUpperCase()}h${subleaf}:${word.register}[${bit}]`;
}

/** Bit names by leaf, subleaf and register, lowest bit first (Intel SDM vol. 2A, AMD APM vol. 3). */
const FEATURE_NAMES: Readonly<Record<string, string>> = {
  '1.0.EDX':
    'fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - ds acpi mmx fxsr sse sse2 ss ht tm ia64 pbe',
  '1.0.ECX':
    'pni pclmulqdq dtes64 monitor ds-cpl vmx smx est tm2 ssse3 cid - fma cx16 xtpr pdcm - pcid dca sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave osxsave avx f16c rdrand hypervisor',
  '7.0.EBX':
    'fsgsbase tsc-adjust sgx bmi1 hle avx2 fdp-excptn-only smep bmi2 erms invpcid rtm pqm zero-fcs-fds mpx pqe avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt clwb intel-pt avx512pf avx512er avx512cd sha-ni avx512bw avx512vl',
  '7.0.ECX':
    'prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512vbmi2 cet-ss gfni vaes vpclmulqdq avx512vnni avx512bitalg tme avx512-vpopcntdq - la57 - - - - - rdpid key-locker bus-lock-detect cldemote - movdiri movdir64b enqcmd sgxlc pks',
  '7.0.EDX':
    '- sgx-keys avx512-4vnniw avx512-4fmaps fsrm uintr - - avx512-vp2intersect srbds-ctrl md-clear rtm-always-abort - tsx-force-abort serialize hybrid tsx-ldtrk - pconfig arch-lbr cet-ibt - amx-bf16 avx512-fp16 amx-tile amx-int8 spec-ctrl stibp flush-l1d arch-capabilities core-capability ssbd',
  '80000001.0.EDX':
    'fpu vme de pse tsc msr pae mce cx8 apic - syscall mtrr pge mca cmov pat pse36 - mp nx - mmxext mmx fxsr fxsr-opt pdpe1gb rdtscp - lm 3dnowext 3dnow',
  '80000001.0.ECX':
    'lahf-lm cmp-legacy svm extapic cr8legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp fma4 tce - nodeid-msr - tbm topoext perfctr-core perfctr-nb - - - - - - -',
  '80000007.0.EDX': '- - - - - - - - invtsc',
  'd.1.EAX': 'xsaveopt xsavec xgetbv1 xsaves xfd',
};
