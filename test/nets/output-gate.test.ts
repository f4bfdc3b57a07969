/** Goal: modes, bounds and figures of the gate, case by case. */
import { describe, expect, it } from 'vitest';
import { toBoundaryFrame } from '../../src/nets/boundary-frames.ts';
import type { NetOutlet } from '../../src/nets/net.ts';
import { type GateMode, OutputGate } from '../../src/nets/output-gate.ts';

class RecordingOutlet implements NetOutlet {
  ready = true;
  readonly written: string[] = [];
  readonly ports: number[] = [];
  #listener: () => void = () => {};

  write(frame: Buffer, port: number): void {
    this.written.push(frame.toString('utf8', 4));
    this.ports.push(port);
  }

  onReady(listener: () => void): void {
    this.#listener = listener;
  }

  becomeReady(): void {
    this.ready = true;
    this.#listener();
  }
}

function make(mode: GateMode, bounds: { heldBytesMax?: number; heldFramesMax?: number } = {}) {
  const outlet = new RecordingOutlet();
  const time = { nowMs: 0 };
  const gate = new OutputGate({ outlet, mode, nowMs: () => time.nowMs, ...bounds });
  const say = (text: string): void => {
    gate.receive(toBoundaryFrame(Buffer.from(text)));
  };
  return { outlet, gate, say, time };
}
const yes = (): boolean => true;
const no = (): boolean => false;

describe('OutputGate', () => {
  it('passes everything while open, nothing while closed, and counts both', () => {
    const { outlet, gate, say } = make('open');
    say('a');
    gate.close();
    say('b');
    expect(outlet.written).toEqual(['a']);
    expect(gate.counters).toMatchObject({
      framesReceived: 2,
      framesReleased: 1,
      framesDroppedClosed: 1,
      framesHeld: 0,
    });
  });

  it('takes a release back when told to hold again', () => {
    const { outlet, gate, say } = make('holding');
    say('a');
    gate.mark(1, 1);
    outlet.ready = false;
    gate.release(1, yes);
    gate.hold();
    outlet.becomeReady();
    expect(outlet.written).toEqual([]);
    gate.release(1, yes);
    expect(outlet.written).toEqual(['a']);
  });

  it('lets a frame follow its mark', () => {
    const { outlet, gate, say } = make('holding');
    say('a');
    gate.mark(1, 2);
    gate.release(1, yes);
    expect(outlet.written).toEqual(['a']);
    say('b');
    say('c');
    expect(outlet.written).toEqual(['a', 'b']);
  });

  it('holds what it may not write, and goes on when it may', () => {
    const { outlet, gate, say } = make('holding');
    let allowed = 1;
    const mayWrite = (): boolean => {
      allowed -= 1;
      return allowed >= 0;
    };
    for (const text of ['a', 'b', 'c']) say(text);
    gate.mark(1, 3);
    expect(gate.release(1, mayWrite)).toBe(1);
    expect(outlet.written).toEqual(['a']);
    expect(gate.counters.framesHeld).toBe(2);
    allowed = 5;
    expect(gate.pump()).toBe(2);
    expect(outlet.written).toEqual(['a', 'b', 'c']);
  });

  it('waits for an outlet that is not ready', () => {
    const { outlet, say } = make('open');
    outlet.ready = false;
    say('a');
    say('b');
    expect(outlet.written).toEqual([]);
    outlet.becomeReady();
    expect(outlet.written).toEqual(['a', 'b']);
  });

  it('puts what was said while open under the check once it holds', () => {
    const { outlet, gate, say } = make('open');
    outlet.ready = false;
    say('a');
    gate.hold();
    say('b');
    outlet.becomeReady();
    expect(outlet.written).toEqual([]);
    gate.mark(7, 1);
    gate.release(7, no);
    expect(outlet.written).toEqual([]);
    gate.release(7, yes);
    expect(outlet.written).toEqual(['a']);
    gate.open();
    expect(outlet.written).toEqual(['a', 'b']);
  });

  it('releases nothing after close, not even what was allowed before', () => {
    const { outlet, gate, say } = make('holding');
    say('a');
    gate.mark(1, 1);
    gate.close();
    gate.release(1, yes);
    gate.pump();
    expect(outlet.written).toEqual([]);
  });

  it('does not let new frames pass for those an old connection announced', () => {
    const { outlet, gate, say } = make('holding');
    say('a');
    gate.mark(1, 5);
    gate.machineConnected();
    expect(gate.framesReceived).toBe(0);
    say('b');
    gate.release(1, yes);
    expect(outlet.written).toEqual(['a']);
    gate.mark(2, 1);
    gate.release(2, yes);
    expect(outlet.written).toEqual(['a', 'b']);
  });

  it('drops and counts new frames above its bounds, and still counts right', () => {
    const { outlet, gate, say } = make('holding', { heldFramesMax: 2 });
    for (const text of ['a', 'b', 'c']) say(text);
    gate.mark(1, 3);
    say('d');
    expect(gate.counters).toMatchObject({ framesHeld: 2, framesDroppedFull: 2 });
    gate.release(1, yes);
    expect(outlet.written).toEqual(['a', 'b']);
    say('e');
    expect(outlet.written).toEqual(['a', 'b']);
    const bytes = make('holding', { heldBytesMax: 10 });
    bytes.say('123456');
    bytes.say('1');
    expect(bytes.gate.counters).toMatchObject({ framesHeld: 1, framesDroppedFull: 1 });
  });

  it('hands each frame to the NIC that said it', () => {
    const { outlet, gate } = make('open');
    gate.receive(toBoundaryFrame(Buffer.from('a')), 2);
    gate.receive(toBoundaryFrame(Buffer.from('b')));
    expect(outlet.ports).toEqual([2, 0]);
  });

  it('counts frames lost on their way in their place', () => {
    const { outlet, gate, say } = make('holding');
    say('a');
    gate.lost(3);
    say('b');
    gate.mark(1, 4);
    gate.release(1, yes);
    expect(outlet.written).toEqual(['a']);
    expect(gate.counters).toMatchObject({ framesReceived: 5, framesDroppedFull: 3 });
  });

  it('tells once an epoch that output waits for the next mark', () => {
    const { gate, say } = make('open');
    let told = 0;
    gate.onWaiting(() => {
      told += 1;
    });
    say('passes');
    gate.hold();
    expect(told).toBe(0);
    say('a');
    say('b');
    expect(told).toBe(1);
    // Of three frames announced one is still on its way: it waits for no other mark.
    gate.mark(1, 4);
    say('c');
    expect(told).toBe(1);
    say('d');
    expect(told).toBe(2);
    // Said before the machine stood again and already here when the mark comes.
    say('e');
    gate.mark(2, 5);
    expect(told).toBe(3);
    gate.mark(3, 6);
    gate.onWaiting(null);
    say('f');
    expect(told).toBe(3);
  });

  it('measures how long frames waited', () => {
    const { gate, say, time } = make('holding');
    say('a');
    time.nowMs = 12;
    gate.mark(1, 1);
    gate.release(1, yes);
    expect(gate.delayMs.max).toBe(12);
  });

  it('refuses marks out of order', () => {
    const { gate } = make('holding');
    gate.mark(3, 5);
    expect(() => {
      gate.mark(3, 6);
    }).toThrow(/out of order/);
    expect(() => {
      gate.mark(4, 4);
    }).toThrow(/lies before/);
  });
});
