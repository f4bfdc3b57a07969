/** Goal: whatever a role made is undone, also after a step that fails or does not end. */
import { expect, it } from 'vitest';
import { RomulusError } from '../../src/base/errors.ts';
import { Teardown } from '../../src/engine/teardown.ts';

const STEP_MS = 20;

it('undoes all in the opposite order, though some fail and one never ends', async () => {
  const done: string[] = [];
  const told: string[] = [];
  const teardown = new Teardown(
    { error: (_: unknown, text: string) => told.push(text) } as never,
    STEP_MS,
  );
  teardown.push('first', () => done.push('first'));
  teardown.push('hangs', () => new Promise(() => undefined));
  teardown.push('refuses', () => {
    done.push('refuses');
    return Promise.reject(new RomulusError('ERR_GUEST_LOST', 'gone', { remedy: 'None.' }));
  });
  teardown.push('throws', () => {
    throw new RomulusError('ERR_GUEST_STATE', 'no', { remedy: 'None.' });
  });
  teardown.push('last', async () => {
    await Promise.resolve();
    done.push('last');
  });
  expect(await teardown.run()).toMatchObject({ code: 'ERR_GUEST_STATE' });
  expect(done).toEqual(['last', 'refuses', 'first']);
  expect(told).toEqual(['throws', 'refuses', 'hangs'].map((what) => `cannot undo: ${what}`));
  // Nothing is undone twice.
  expect(await teardown.run()).toBeNull();
  expect(done).toHaveLength(3);
});

it('says which step took too long', async () => {
  const teardown = new Teardown({ error: () => undefined } as never, STEP_MS);
  teardown.push('the hold on the machine', () => new Promise(() => undefined));
  expect(await teardown.run()).toMatchObject({
    code: 'ERR_TIMEOUT_TEARDOWN',
    message: expect.stringContaining('the hold on the machine'),
  });
});
