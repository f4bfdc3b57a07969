import { defineConfig } from 'vitest/config';

// Two cores, and several suites start real processes: more forks only add noise.
const WORKERS_MAX = 2;

export default defineConfig({
  test: {
    testTimeout: 30_000,
    hookTimeout: 30_000,
    pool: 'forks',
    // As in a node: no thread waits for V8's helpers (src/cli/collect-alone.ts).
    execArgv: ['--single-threaded-gc'],
    // A host that is busy with something else may take seconds over what takes it milliseconds.
    expect: { poll: { timeout: 15_000, interval: 20 } },
    projects: [
      {
        extends: true,
        test: {
          name: 'parts',
          include: ['test/**/*.test.ts'],
          exclude: ['test/e2e/**'],
          maxWorkers: WORKERS_MAX,
          sequence: { groupOrder: 0 },
        },
      },
      {
        extends: true,
        test: {
          // Whole nodes that kill each other: one at a time, and not beside ten thousand simulations.
          name: 'whole',
          include: ['test/e2e/**/*.test.ts'],
          maxWorkers: 1,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
