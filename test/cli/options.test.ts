import { describe, expect, it } from 'vitest';
import { RomulusError } from '../../src/base/errors.ts';
import {
  arbiterName,
  durationMs,
  endpoint,
  endpoints,
  oneOf,
  sizeBytes,
  wholeNumber,
} from '../../src/cli/options.ts';

function errorOf(run: () => unknown): RomulusError {
  try {
    run();
  } catch (error) {
    if (error instanceof RomulusError) return error;
    throw error;
  }
  throw new Error('nothing was refused');
}

describe('durations', () => {
  it('reads every unit', () => {
    const parse = durationMs('--interval');
    expect(parse('25ms')).toBe(25);
    expect(parse('1.5s')).toBe(1500);
    expect(parse('10m')).toBe(600_000);
    expect(parse('1h')).toBe(3_600_000);
  });

  it.each(['0ms', '-5ms', '25', '', 'soon', '1e3ms', 'NaNms', '5 ms', '1d2h'])(
    'refuses %j, naming flag and value',
    (value) => {
      const error = errorOf(() => durationMs('--interval')(value));
      expect(error.code).toBe('ERR_USAGE_VALUE');
      expect(error.message).toContain('--interval');
      expect(error.message).toContain(value);
      expect(error.remedy).toContain('25ms');
    },
  );
});

describe('sizes', () => {
  it('reads powers of 1024', () => {
    const parse = sizeBytes('--memory');
    expect(parse('256M')).toBe(256 * 1024 * 1024);
    expect(parse('1.5GiB')).toBe(1.5 * 1024 ** 3);
    expect(parse('64kb')).toBe(65_536);
  });

  it.each(['0M', '-1M', '256', '1B', 'big', '0.0000001K', '99999999999T'])(
    'refuses %j',
    (value) => {
      expect(errorOf(() => sizeBytes('--memory')(value)).code).toBe('ERR_USAGE_VALUE');
    },
  );
});

describe('whole numbers', () => {
  it('keeps to its bounds', () => {
    const parse = wholeNumber('--times', { min: 1, max: 10 });
    expect(parse('1')).toBe(1);
    expect(parse('10')).toBe(10);
    for (const value of ['0', '11', '1.5', '-1', '0x5', ' 3', ''])
      expect(errorOf(() => parse(value)).remedy).toContain('from 1 to 10');
  });
});

describe('endpoints', () => {
  it('reads names, IPv4 and IPv6', () => {
    const parse = endpoint('--listen');
    expect(parse('127.0.0.1:7000')).toEqual({ host: '127.0.0.1', port: 7000 });
    expect(parse('host.example:0')).toEqual({ host: 'host.example', port: 0 });
    expect(parse('[::1]:7000')).toEqual({ host: '::1', port: 7000 });
  });

  it.each(['7000', ':7000', 'host', 'host:', 'host:65536', '::1:7000', 'a b:1'])(
    'refuses %j',
    (value) => {
      expect(errorOf(() => endpoint('--listen')(value)).code).toBe('ERR_USAGE_VALUE');
    },
  );

  it('collects a repeated flag', () => {
    const parse = endpoints('--node');
    expect(parse('b:2', parse('a:1'))).toEqual([
      { host: 'a', port: 1 },
      { host: 'b', port: 2 },
    ]);
  });
});

describe('words', () => {
  it('takes only what is listed', () => {
    const parse = oneOf('--kill', ['link', 'backup'] as const);
    expect(parse('link')).toBe('link');
    expect(errorOf(() => parse('sword')).remedy).toContain('link, backup');
  });

  it('knows the arbiters', () => {
    const parse = arbiterName('--arbiter');
    expect(parse('none')).toBe('none');
    expect(parse('file:/srv/arbiter')).toBe('file:/srv/arbiter');
    for (const value of ['file:', 'etcd', '']) errorOf(() => parse(value));
  });
});
