/** The command that follows a promotion: what it is told, and what becomes known of its end. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { PromoteHook } from '../../src/engine/promote-hook.ts';
import type { NodeEvent } from '../../src/engine/status.ts';

const FACTS = { guest: 'web', generation: 7, epoch: 123 };

describe('the promote hook', () => {
  let directory = '';
  let events: NodeEvent[] = [];
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'romulus-hook-'));
    events = [];
  });
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  const hookOf = (command: string | null, timeoutMs?: number): PromoteHook =>
    new PromoteHook({
      command,
      node: 'b',
      log: pino({ level: 'silent' }),
      emit: (event) => events.push(event),
      ...(timeoutMs !== undefined && { timeoutMs }),
    });
  const errors = (): string[] =>
    events.flatMap((event) => (event.event === 'error' ? [event.code] : []));

  it('is told what was promoted, and where', async () => {
    const file = join(directory, 'said');
    const hook = hookOf(
      `echo $ROMULUS_GUEST $ROMULUS_GENERATION $ROMULUS_EPOCH $ROMULUS_NODE > ${file}; echo moved`,
    );
    expect(hook.status).toBeNull();
    const end = hook.run(FACTS);
    await Promise.resolve();
    expect(hook.status).toEqual({ state: 'running', why: '' });
    await end;
    expect(readFileSync(file, 'utf8')).toBe('web 7 123 b\n');
    expect(hook.status).toEqual({ state: 'done', why: 'exit code 0: moved' });
    expect(events.map(({ event }) => event)).toEqual(['promoteHook', 'promoteHook']);
  });

  it('says its last words when it fails', async () => {
    const hook = hookOf('echo no such bridge >&2; exit 3');
    await hook.run(FACTS);
    expect(hook.status).toEqual({ state: 'failed', why: 'exit code 3: no such bridge' });
    expect(errors()).toEqual(['ERR_HOST_PROMOTE_HOOK']);
  });

  it('is killed when it is late', async () => {
    const hook = hookOf('sleep 600', 50);
    await hook.run(FACTS);
    expect(hook.status?.state).toBe('failed');
    expect(errors()).toEqual(['ERR_TIMEOUT_PROMOTE_HOOK']);
  });

  it('fails, and no more, on a name that no environment can hold', async () => {
    const hook = hookOf('true');
    await hook.run({ ...FACTS, guest: 'a\0b' });
    expect(hook.status?.state).toBe('failed');
    expect(errors()).toEqual(['ERR_HOST_PROMOTE_HOOK']);
  });

  it('waits for that of an earlier promotion, and is waited for', async () => {
    const file = join(directory, 'order');
    const hook = hookOf(`sleep 0.05; echo $ROMULUS_EPOCH >> ${file}`);
    void hook.run({ ...FACTS, epoch: 1 });
    void hook.run({ ...FACTS, epoch: 2 });
    await hook.settled();
    expect(readFileSync(file, 'utf8')).toBe('1\n2\n');
  });

  it('is nothing without a command', async () => {
    const hook = hookOf(null);
    await hook.run(FACTS);
    expect(hook.status).toBeNull();
    expect(events).toEqual([]);
  });
});
