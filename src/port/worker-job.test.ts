import { describe, expect, it } from 'vitest';
import { runJob } from './worker-job.ts';

/** A worker thread from a line of JavaScript. */
const script = (source: string) => new URL(`data:text/javascript,${encodeURIComponent(source)}`);
const threads = "import { parentPort as port, workerData as data } from 'node:worker_threads';";

describe('a job in a worker thread', () => {
  it('passes events, then the result', async () => {
    const url = script(`${threads} port.postMessage({ kind: 'event', event: 1 });
      port.postMessage({ kind: 'done', result: data.input * 2 });`);
    const events: number[] = [];
    const result = await runJob<number, number, number>(url, 21, { onEvent: (event) => events.push(event) });
    expect(result).toBe(42);
    expect(events).toEqual([1]);
  });

  it('is reported lost when its thread dies', async () => {
    await expect(runJob(script('process.exit(3)'), 0)).rejects.toMatchObject({
      code: 'worker_lost',
      message: expect.stringContaining('code 3'),
    });
    await expect(runJob(script('throw new Error("out of luck")'), 0)).rejects.toMatchObject({
      code: 'worker_lost',
      message: expect.stringContaining('out of luck'),
    });
  });

  it('keeps the code of an error', async () => {
    const url = script(
      `${threads} port.postMessage({ kind: 'failed', code: 'load_failed', message: 'why' });`,
    );
    await expect(runJob(url, 0)).rejects.toMatchObject({ code: 'load_failed', message: 'why' });
  });

  it('does not start when it is aborted already', async () => {
    const run = runJob(script('process.exit(3)'), 0, { signal: AbortSignal.abort() });
    await expect(run).rejects.toMatchObject({ code: 'aborted' });
  });
});
