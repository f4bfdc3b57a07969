/** Starts QEMUs for a test and leaves nothing of them behind. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { QmpClient } from '../../../../src/guests/qemu/qmp/qmp-client.ts';

export const QEMU = process.env['ROMULUS_QEMU'] ?? 'qemu-system-x86_64';

export interface StartedQemu {
  readonly client: QmpClient;
  readonly pid: number;
}

/** A directory and the QEMUs started in it. */
export class Bench {
  readonly directory = mkdtempSync(join(tmpdir(), 'romulus-profile-'));
  /** Added to the environment of the QEMUs that are started. */
  environment: Readonly<Record<string, string>> = {};
  readonly #processes: ChildProcess[] = [];
  readonly #clients: QmpClient[] = [];

  path(name: string): string {
    return join(this.directory, name);
  }

  /** An empty file of that size. */
  image(name: string, bytes: number): string {
    writeFileSync(this.path(name), '');
    truncateSync(this.path(name), bytes);
    return this.path(name);
  }

  /** Runs a QEMU whose monitor is at `qmpPath`, and connects to it. */
  async start(command: string, args: readonly string[], qmpPath: string): Promise<StartedQemu> {
    const qemu = spawn(command, args, {
      cwd: this.directory,
      env: { ...process.env, ...this.environment },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#processes.push(qemu);
    let said = '';
    const listen = (chunk: Buffer): void => {
      said += chunk.toString();
    };
    qemu.stdout.on('data', listen);
    qemu.stderr.on('data', listen);
    for (let triesLeft = 200; ; triesLeft -= 1) {
      // One that made itself a daemon has ended well.
      if ((qemu.exitCode ?? 0) !== 0) throw new Error(`QEMU ended: ${said}\n${args.join(' ')}`);
      try {
        const client = await QmpClient.connect(qmpPath);
        this.#clients.push(client);
        return { client, pid: qemu.pid ?? 0 };
      } catch (error) {
        if (triesLeft === 0) throw error;
        await delay(25);
      }
    }
  }

  /** A machine as somebody else would start it, its vCPUs not running. */
  async source(args: readonly string[]): Promise<StartedQemu> {
    const qmpPath = this.path('source.qmp');
    const own = ['-display', 'none', '-S', '-qmp', `unix:${qmpPath},server=on,wait=off`];
    return this.start(QEMU, [...args, ...own], qmpPath);
  }

  async stop(): Promise<void> {
    for (const client of this.#clients) client.close();
    for (const qemu of this.#processes) {
      if (qemu.exitCode !== null || qemu.signalCode !== null) continue;
      const ended = new Promise((resolve) => {
        qemu.once('exit', resolve);
      });
      qemu.kill('SIGKILL');
      await ended;
    }
    rmSync(this.directory, { recursive: true, force: true });
  }
}
