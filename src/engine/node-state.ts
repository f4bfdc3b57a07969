/**
 * What a node must still know when its engine is started again beside a machine that lives on:
 * which machine that is and under which instance's name it ran.
 */
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { isProcessAlive, processStartTime } from '../guests/process.ts';

const schema = z.object({
  instance: z.string().min(1).max(128),
  kind: z.enum(['sim', 'qemu']).default('sim'),
  socketPath: z.string().min(1),
  pid: z.number().int().positive(),
  /** With the pid, names one process for ever: a pid alone is given away again, at a reboot at last. */
  startTime: z.string().nullable().default(null),
});

type Note = z.output<typeof schema>;
/** Which machine a node runs, and as which instance. */
export type SavedMachine = Omit<Note, 'startTime'>;

/** Reads and writes `machine.json` in the state directory. */
export class NodeState {
  readonly #path: string;

  constructor(directory: string) {
    mkdirSync(directory, { recursive: true, mode: 0o750 });
    this.#path = join(directory, 'machine.json');
  }

  /** The machine noted last, if its process still lives; null too when the note cannot be read as one. */
  living(): SavedMachine | null {
    const note = this.#load();
    if (note === null || !isProcessAlive(note.pid)) return null;
    const isSame = note.startTime === null || note.startTime === processStartTime(note.pid);
    return isSame ? note : null;
  }

  #load(): Note | null {
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
    const note: Note = { ...machine, startTime: processStartTime(machine.pid) };
    // A reader must never see half a note, whenever we are killed.
    const temporary = `${this.#path}.${process.pid}`;
    writeFileSync(temporary, JSON.stringify(note), { mode: 0o640 });
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
