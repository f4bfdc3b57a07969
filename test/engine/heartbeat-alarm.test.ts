/** Goal: heartbeats that do not come through beside a link that works are told of once, and only those. */
import { describe, expect, it } from 'vitest';
import { HeartbeatAlarm } from '../../src/engine/heartbeat-alarm.ts';

const peer = { node: 'b', instance: 'b#1', connected: true };
const paired = { state: 'protected', peer };

describe('HeartbeatAlarm', () => {
  it('tells once when none came, and once when they came back', () => {
    const alarm = new HeartbeatAlarm(10);
    const told = [0, 2900, 3100, 9000].map((nowMs) =>
      alarm.note({ ...paired, heartbeatAgeMs: null }, nowMs),
    );
    expect(told).toMatchObject([null, null, { code: 'ERR_TRANSPORT_NO_HEARTBEATS' }, null]);
    expect(alarm.note({ ...paired, heartbeatAgeMs: 7 }, 9200)).toBe('back');
    expect(alarm.note({ ...paired, heartbeatAgeMs: 9 }, 9400)).toBeNull();
  });

  it('tells when they ceased, counted from the last one', () => {
    const alarm = new HeartbeatAlarm(10);
    expect(alarm.note({ ...paired, heartbeatAgeMs: 5 }, 0)).toBeNull();
    expect(alarm.note({ ...paired, heartbeatAgeMs: 2900 }, 60_000)).toBeNull();
    expect(alarm.note({ ...paired, heartbeatAgeMs: 3100 }, 60_200)).toMatchObject({
      message: expect.stringContaining('3100 ms'),
    });
  });

  it('says nothing of a node that is alone, or without its link', () => {
    const alarm = new HeartbeatAlarm(10);
    const alone = { state: 'unprotected', peer: null, heartbeatAgeMs: null };
    const cut = { ...paired, peer: { ...peer, connected: false }, heartbeatAgeMs: 50_000 };
    for (const nowMs of [0, 5000, 50_000]) {
      expect(alarm.note(alone, nowMs)).toBeNull();
      expect(alarm.note(cut, nowMs)).toBeNull();
    }
    // What is expected is expected from now on.
    expect(alarm.note({ ...paired, heartbeatAgeMs: 60_000 }, 60_000)).toBeNull();
  });

  it('waits for ten intervals where these are long', () => {
    const alarm = new HeartbeatAlarm(1000);
    expect(alarm.note({ ...paired, heartbeatAgeMs: null }, 0)).toBeNull();
    expect(alarm.note({ ...paired, heartbeatAgeMs: null }, 9900)).toBeNull();
    expect(alarm.note({ ...paired, heartbeatAgeMs: null }, 10_100)).not.toBeNull();
  });
});
