import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    testTimeout: 30_000,
    hookTimeout: 30_000,
    // Two cores, and several suites start real processes: more forks only add noise.
    maxWorkers: 2,
    pool: 'forks',
  },
});
