/** Goal: the gap that a drill reports is the longest silence that a client really saw. */
import { describe, expect, it } from 'vitest';
import { AnswerRecord } from '../../../src/drill/clients/answer-record.ts';

function recordOf(...instantsMs: number[]): AnswerRecord {
  const record = new AnswerRecord();
  for (const atMs of instantsMs) record.note(atMs);
  return record;
}

describe('the longest gap', () => {
  it('counts a silence that began before the strike', () => {
    expect(recordOf(10, 100, 400, 410).longestGapMs(200, 420)).toBe(300);
  });

  it('leaves out what ended before the strike', () => {
    expect(recordOf(10, 500, 505, 600).longestGapMs(550, 610)).toBe(95);
  });

  it('counts a silence that never ended', () => {
    expect(recordOf(10, 20).longestGapMs(15, 1020)).toBe(1000);
  });

  it('begins with the strike where nothing was ever answered', () => {
    expect(recordOf().longestGapMs(15, 1015)).toBe(1000);
  });
});

it('counts the answers since an instant', () => {
  const record = recordOf(1, 2, 3, 4);
  expect([0, 2, 2.5, 4, 5].map((fromMs) => record.countSince(fromMs))).toEqual([4, 3, 2, 1, 0]);
});
