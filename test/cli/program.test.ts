/** Goal: every wrong use ends with exit code 2 and words that name flag, value and what is accepted. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { buildProgram, main } from '../../src/cli/program.ts';

let stdout = '';
let stderr = '';

beforeEach(() => {
  stdout = '';
  stderr = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    stdout += String(text);
    return true;
  });
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    stderr += String(text);
    return true;
  });
});

afterEach(() => {
  vi.restoreAllMocks();
  process.exitCode = 0;
});

function run(line: string): Promise<number> {
  return main(['node', 'romulus', ...line.split(' ').filter((word) => word !== '')]);
}

const NODE_FLAGS = '--guest sim --listen 127.0.0.1:0 --state-dir /tmp/x --arbiter none';

describe('help', () => {
  it('is there for every command, with an example', async () => {
    for (const command of buildProgram().commands) {
      stdout = '';
      expect(await run(`${command.name()} --help`)).toBe(0);
      expect(stdout).toContain('Example');
      expect(stdout).toContain(`romulus ${command.name()}`);
      expect(stdout).toContain(command.description());
    }
  });

  it('offers --json with every command that README says has it', () => {
    for (const command of buildProgram().commands) {
      const has = command.options.some(({ long }) => long === '--json');
      expect({ command: command.name(), has }).toEqual({
        command: command.name(),
        has: command.name() !== 'bench',
      });
    }
  });

  it('tells the version', async () => {
    expect(await run('--version')).toBe(0);
    expect(stdout.trim()).toMatch(/^\d+\.\d+\.\d+/);
  });
});

describe('wrong use', () => {
  it.each([
    ['drill --interval 0ms', ['--interval', '0ms', '25ms']],
    ['drill --interval -5ms', ['--interval', '-5ms']],
    ['drill --interval 25', ['--interval', '25', 'unit']],
    ['drill --workload chess', ['--workload', 'chess', 'hotspot']],
    ['drill --kill sword', ['--kill', 'sword', 'sigstop']],
    ['drill --times 0', ['--times', '0', 'from 1']],
    ['drill --memory 256', ['--memory', '256', '256M']],
    [`protect --sim-socket s ${NODE_FLAGS} --interval 0ms`, ['--interval', '0ms']],
    [`protect --sim-socket s ${NODE_FLAGS} --guest toaster`, ['--guest', 'toaster', 'sim']],
    [`backup --peer nowhere ${NODE_FLAGS}`, ['--peer', 'nowhere', 'HOST:PORT']],
    [`backup ${NODE_FLAGS}`, ['--peer']],
    ['status', ['--state-dir']],
    ['adjust --state-dir /tmp/x --interval soon', ['--interval', 'soon']],
    ['gateway --listen 127.0.0.1:0', ['--node']],
    ['sim', ['--socket']],
    ['conquer', ['conquer']],
    ['drill --blade', ['--blade']],
  ])('%s', async (line, words) => {
    expect(await run(line)).toBe(2);
    for (const word of words) expect(stderr).toContain(word);
    expect(stdout).toBe('');
  });

  it('is told as JSON on stderr when asked', async () => {
    expect(await run('drill --times 0 --json')).toBe(2);
    expect(JSON.parse(stderr)).toMatchObject({
      code: 'ERR_USAGE_VALUE',
      details: { flag: '--times', value: '0' },
    });
  });
});

describe('a node that does not answer', () => {
  it('is a failure with a way out', async () => {
    expect(await run('status --state-dir /nonexistent/romulus')).toBe(1);
    expect(stderr).toContain('ERR_TRANSPORT_NO_NODE');
    expect(stderr).toContain('--state-dir');
  });

  it('cannot be asked through a path too long for a socket', async () => {
    expect(await run(`status --state-dir /${'x'.repeat(120)}`)).toBe(2);
    expect(stderr).toContain('too long');
  });
});
