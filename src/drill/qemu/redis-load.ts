/** Starts redis on the files that it left on a disk, and asks what it holds. */
import { mkdir, symlink } from 'node:fs/promises';
import { type Child, REAP_MS, type Stage } from '../children.ts';
import { askRedis } from '../redis-benchmark.ts';
import type { Reply } from '../resp.ts';
import { copyOut } from './drill-disk.ts';
import { programPath } from './tools.ts';

/** Longest wait until it has loaded its file. */
const LOAD_WAIT_MS = 60_000;
const POLL_MS = 20;

/** What redis said when it was started anew. */
export interface LoadedRedis {
  /** Why it did not come up; null when it did. */
  readonly complaint: string | null;
  /** What each of the keys holds. */
  readonly counters: Readonly<Record<string, number>>;
}

/** Starts redis on a copy of the file that it keeps on a disk, and asks it for some keys. */
export async function loadRedis(
  stage: Stage,
  disk: string,
  keys: readonly string[],
): Promise<LoadedRedis> {
  const folder = stage.path('loaded');
  await mkdir(folder);
  await copyOut(disk, '/redis', folder);
  // Debian has one program for the server and what checks its files; the name decides what it is.
  const program = stage.path('redis-server');
  await symlink(programPath('redis-check-rdb') ?? 'redis-check-rdb', program);
  const socket = stage.path('redis.sock');
  const server = stage.start({
    name: 'redis-loaded',
    command: program,
    // What was acknowledged was synced: an end cut short would be a loss.
    args: `--port 0 --unixsocket ${socket} --dir ${folder}/redis --appendonly yes --aof-load-truncated no`.split(
      ' ',
    ),
    output: 'log',
  });
  try {
    if (!(await isUp(server, socket)))
      return { complaint: `redis does not come up again; see ${server.logFile}`, counters: {} };
    const counters: Record<string, number> = {};
    for (const key of keys)
      counters[key] = numberIn(await askRedis({ path: socket }, ['GET', key]));
    return { complaint: null, counters };
  } finally {
    server.process.kill('SIGTERM');
    await Promise.race([
      server.gone,
      new Promise((resolve) => setTimeout(resolve, REAP_MS).unref()),
    ]);
  }
}

function numberIn(reply: Reply): number {
  return reply.kind === 'bulk' ? Number(reply.text ?? 0) : 0;
}

async function isUp(server: Child, socket: string): Promise<boolean> {
  const deadlineMs = performance.now() + LOAD_WAIT_MS;
  while (performance.now() < deadlineMs && !server.isGone()) {
    try {
      const reply = await askRedis({ path: socket }, ['PING']);
      if (reply.kind === 'text' && reply.text === 'PONG') return true;
    } catch {
      // It does not listen yet; when it ends instead, the loop does too.
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  return false;
}
