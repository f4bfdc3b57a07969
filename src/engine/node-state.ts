/**
 * What a node must still know when its engine is started again beside a machine that lives on:
 * which machine that is and under which instance's name it ran.
 */
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';

const schema = z.object({
  instance: z.string().min(1).max(128),
  kind: z.enum(['sim', 'qemu']).default('sim'),
  socketPath: z.string().min(1),
  pid: z.number().int().positive(),
});

export type SavedMachine = z.output<typeof schema>;

/** Reads and writes `machine.json` in the state directory. */
export class NodeState {
  readonly #path: string;

  constructor(directory: string) {
    mkdirSync(directory, { recursive: true, mode: 0o750 });
    this.#path = join(directory, 'machine.json');
  }

  /** The machine noted last; null when there is none or the note cannot be read as one. */
  load(): SavedMachine | null {
    let text: string;
    try {
      text = readFileSync(this.#path, 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw error;
    }
    const parsed = schema.safeParse(parseJson(text));
    return parsed.success ? parsed.data : null;
  }

  save(machine: SavedMachine): void {
    // A reader must never see half a note, whenever we are killed.
    const temporary = `${this.#path}.${process.pid}`;
    writeFileSync(temporary, JSON.stringify(machine), { mode: 0o640 });
    renameSync(temporary, this.#path);
  }

  clear(): void {
    rmSync(this.#path, { force: true });
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

/** True while a process with this id exists. */
export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
