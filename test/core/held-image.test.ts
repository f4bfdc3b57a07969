/** Goal: an image moves forward only, one epoch at a time. */
import { expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.ts';
import { asEpoch } from '../../src/base/units.ts';
import { HeldImage } from '../../src/core/held-image.ts';

it('is received, acknowledged and applied in order', () => {
  const image = new HeldImage('b#1', asEpoch(4));
  expect([image.receivedEpoch, image.acknowledgedEpoch, image.appliedEpoch]).toEqual([4, 3, 3]);
  image.received(asEpoch(5));
  image.acknowledged();
  image.applied(asEpoch(4));
  expect([image.receivedEpoch, image.acknowledgedEpoch, image.appliedEpoch]).toEqual([5, 5, 4]);
});

it('never skips, repeats or applies what is not here', () => {
  const image = new HeldImage('b#1', asEpoch(4));
  expect(() => image.received(asEpoch(6))).toThrow(AssertionError);
  expect(() => image.received(asEpoch(4))).toThrow(AssertionError);
  expect(() => image.applied(asEpoch(5))).toThrow(AssertionError);
  image.applied(asEpoch(4));
  expect(() => image.applied(asEpoch(4))).toThrow(AssertionError);
  expect(() => image.applied(asEpoch(5))).toThrow(AssertionError);
  expect(() => new HeldImage('b#1', asEpoch(0))).toThrow(AssertionError);
});
