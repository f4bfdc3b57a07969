/**
 * One word of the register as a file. The number in the name is the generation; the content says
 * it again, and ends with a digest, so that a torn, mixed-up or hand-made file is recognised and
 * never taken for a word.
 *
 *     generation-0000000000000007
 *     {"format":1,"generation":7,"runner":"a#5f21c0de","partner":null}
 *     <first 16 hexadecimal digits of SHA-256 of the first line, line feed included>
 */
import { createHash } from 'node:crypto';
import { RomulusError } from '../base/errors.ts';
import { isRegisterWord, type RegisterWord } from '../core/register.ts';

/** Longest content that can be a word; a longer file is not read to its end. */
export const REGISTER_FILE_BYTES_MAX = 4096;

const NAME_PATTERN = /^generation-(\d{16})$/;
const GENERATION_DIGITS = 16;
const DIGEST_DIGITS = 16;

/** The name of the file of a generation. */
export function registerFileName(generation: number): string {
  return `generation-${String(generation).padStart(GENERATION_DIGITS, '0')}`;
}

/**
 * The generation that a name stands for; null for a file that is none of ours.
 * @throws {RomulusError} ERR_ARBITER_CORRUPT when it nearly is one.
 */
export function generationOfName(name: string): number | null {
  if (!name.startsWith('generation-')) return null;
  const digits = NAME_PATTERN.exec(name)?.[1];
  const generation = Number(digits);
  if (digits !== undefined && Number.isSafeInteger(generation) && generation >= 1) {
    return generation;
  }
  throw corrupt(name, 'its name is not that of a generation');
}

/** The content of the file of a word. */
export function formatRegisterFile(word: RegisterWord): string {
  const { generation, runner, partner } = word;
  const line = `${JSON.stringify({ format: 1, generation, runner, partner })}\n`;
  return `${line}${digestOf(line)}\n`;
}

/**
 * The word in a file's content.
 * @throws {RomulusError} ERR_ARBITER_CORRUPT when it is anything but the word of that generation.
 */
export function parseRegisterFile(content: string, generation: number, path: string): RegisterWord {
  const lineEnd = content.indexOf('\n') + 1;
  const line = content.slice(0, lineEnd);
  if (lineEnd === 0 || content.slice(lineEnd) !== `${digestOf(line)}\n`) {
    throw corrupt(path, 'its digest does not match its content');
  }
  const value = parseJson(line, path);
  if (typeof value !== 'object' || value === null || !('format' in value)) {
    throw corrupt(path, 'it holds no word');
  }
  if (value.format !== 1) throw corrupt(path, `its format ${String(value.format)} is unknown`);
  if (!isRegisterWord(value)) throw corrupt(path, 'what it holds is not a valid word');
  if (value.generation !== generation) {
    throw corrupt(path, `it holds generation ${value.generation}`);
  }
  return { generation: value.generation, runner: value.runner, partner: value.partner };
}

/** The error for a register that cannot be trusted. */
export function corrupt(path: string, reason: string): RomulusError {
  return new RomulusError(
    'ERR_ARBITER_CORRUPT',
    `the register file ${path} cannot be trusted: ${reason}`,
    {
      remedy:
        'Find out which node runs the guest; stop both nodes, empty the directory, start that node first.',
      details: { path, reason },
    },
  );
}

function parseJson(line: string, path: string): unknown {
  try {
    return JSON.parse(line) as unknown;
  } catch (cause) {
    throw corrupt(path, cause instanceof Error ? cause.message : String(cause));
  }
}

function digestOf(line: string): string {
  return createHash('sha256').update(line).digest('hex').slice(0, DIGEST_DIGITS);
}
