/** Starts heartbeat-process.ts and follows what it says. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export interface ChildEvent {
  readonly atMs: number;
  readonly event: 'ready' | 'verdict' | 'failed';
  readonly port?: number;
  readonly state?: string;
  readonly why?: string;
}

const SCRIPT = fileURLToPath(new URL('./heartbeat-process.ts', import.meta.url));

export class HeartbeatChild {
  readonly process: ChildProcessWithoutNullStreams;
  readonly events: ChildEvent[] = [];

  constructor(options: object) {
    this.process = spawn(process.execPath, ['--import', 'tsx', SCRIPT, JSON.stringify(options)], {
      stdio: 'pipe',
    });
    this.process.stderr.pipe(process.stderr);
    createInterface({ input: this.process.stdout }).on('line', (line) => {
      this.events.push(JSON.parse(line) as ChildEvent);
    });
  }

  async ready(): Promise<ChildEvent> {
    for (;;) {
      const event = this.events.find((candidate) => candidate.event === 'ready');
      if (event !== undefined) return event;
      if (this.process.exitCode !== null) throw new Error('the heartbeat process ended');
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }

  async kill(): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const exited = once(this.process, 'exit');
    this.process.kill('SIGKILL');
    await exited;
  }
}
