import type { Logger } from 'pino';
import { expect, it, vi } from 'vitest';
import { dispatchFailureLog, FAILURE_REPORT_MS } from './dispatch-failures.ts';

it('tells the first failure at once, and of the others how many they were, once a minute', () => {
  const error = vi.fn();
  let nowMs = 0;
  const tell = dispatchFailureLog({ error } as unknown as Logger, () => nowMs);
  for (let i = 0; i < 1000; i++) {
    tell('mine failed');
    nowMs++;
  }
  expect(error.mock.calls).toEqual([[{ reason: 'mine failed' }, expect.stringContaining('one decision')]]);
  nowMs = FAILURE_REPORT_MS;
  tell('mine failed');
  expect(error).toHaveBeenCalledTimes(2);
  expect(error.mock.calls[1]![0]).toEqual({ reason: 'mine failed', failures: 1000 });
});
