import { defineConfig } from 'vitest/config';

/** Tests that need programs beside Node.js; each says which, and is skipped where that is absent. */
export default defineConfig({
  test: {
    include: ['dashboard/e2e/**/*.e2e.ts', 'test/e2e/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: 1,
    fileParallelism: false,
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
