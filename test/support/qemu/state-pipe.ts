/** The pipe that an engine has device states written to. */
import { readdirSync, readlinkSync } from 'node:fs';

/** @throws {Error} when the process has not exactly one. */
export function statePipeOf(pid: number): string {
  const paths = readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/${pid}/fd/${fd}`)];
    } catch {
      // Closed since it was listed.
      return [];
    }
  });
  const [path, ...others] = paths.filter((target) => /^\/dev\/shm\/romulus-.*\/s$/.test(target));
  if (path === undefined || others.length > 0)
    throw new Error(
      `process ${pid} has ${others.length + (path === undefined ? 0 : 1)} state pipes`,
    );
  return path;
}
