import { expect, it } from 'vitest';
import { partOf, workerArguments } from './workers.ts';

const said: string[] = [];
const context = {
  progress: { say: (line: string) => void said.push(line), task: () => ({ update() {}, done() {} }) },
};
const part = (options: { workers?: number; workerIndex?: number }, index?: string) =>
  partOf(options, context, index);

it('does all, all at once in several processes, or one share', () => {
  expect(part({})).toEqual({ kind: 'whole' });
  expect(part({ workers: 1 })).toEqual({ kind: 'whole' });
  expect(part({ workers: 3 })).toEqual({ kind: 'together', count: 3 });
  expect(part({ workers: 3, workerIndex: 2 })).toEqual({ kind: 'share', share: { index: 2, count: 3 } });
  expect(part({ workers: 3 }, '1')).toEqual({ kind: 'share', share: { index: 1, count: 3 } });
  // What is said counts more than the environment.
  expect(part({ workers: 3, workerIndex: 0 }, '1')).toEqual({ kind: 'share', share: { index: 0, count: 3 } });
  expect(said).toEqual([]);
  // A Job that forgot to say how many its pods are does the work more than once, but rightly.
  expect(part({}, '1')).toEqual({ kind: 'whole' });
  expect(said).toEqual([expect.stringMatching(/JOB_COMPLETION_INDEX is 1, but without --workers/)]);
});

it('refuses an index that no worker has', () => {
  expect(() => part({ workerIndex: 1 })).toThrow(/add --workers/);
  expect(() => part({ workers: 2, workerIndex: 2 })).toThrow(
    /--worker-index is 2, but of 2 workers the last/,
  );
  expect(() => part({ workers: 2 }, '5')).toThrow(/JOB_COMPLETION_INDEX is 5, but .* completions/);
  for (const text of ['', '-1', 'two', '1.5'])
    expect(() => part({ workers: 2 }, text)).toThrow(`JOB_COMPLETION_INDEX is "${text}"`);
});

it('hands the same command on, with what is the own of a worker last', () => {
  expect(workerArguments(['profile', 'm', '--workers', '2'], 1, ['--cpus', '1'])).toEqual([
    ...['profile', 'm', '--workers', '2'],
    ...['--worker-index', '1', '--cpus', '1'],
  ]);
  expect(workerArguments(['port', '--workers', '2', '--', 'a.onnx'], 0, [])).toEqual([
    ...['port', '--workers', '2', '--worker-index', '0', '--', 'a.onnx'],
  ]);
});
