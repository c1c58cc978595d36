import { execFile } from 'node:child_process';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { describeTarget } from '../engine/target.ts';
import { digestOf } from '../repository/digest.ts';
import { settleJob } from '../repository/jobs.ts';
import { writeTask } from '../repository/store.ts';
import { MANIFEST_SCHEMA_VERSION, type Variant } from '../repository/types.ts';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const target = describeTarget({ cpus: 1 });

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'bonsai-request-'));
  // Requests say nothing about networks, only about what is known of them.
  const networks = new Map([1, 2].map((version) => [version, Uint8Array.of(version)]));
  const tensor = { dtype: 'float32', shape: [-1] } as const;
  await writeTask(
    root,
    {
      schemaVersion: MANIFEST_SCHEMA_VERSION,
      task: 'digits',
      inputs: [{ name: 'x', ...tensor }],
      outputs: [{ name: 'y', ...tensor }],
      variants: [makeVariant(1, 0.95, 10), makeVariant(2, 0.9, 100)],
    },
    networks,
  );
});
afterAll(() => rm(root, { recursive: true }));

function makeVariant(version: number, accuracy: number, rps: number): Variant {
  const one = (median: number) => ({ count: 1, mean: median, median, min: median, max: median });
  return {
    version,
    digest: digestOf(Uint8Array.of(version)),
    sizeBytes: 1,
    accuracy: { test: accuracy, testCount: 10 },
    macs: 1e9 / rps,
    parameters: 10,
    lineage: {},
    profiles: {
      [target.fingerprint]: {
        target,
        measuredAt: '2026-01-01T00:00:00Z',
        latencyMs: one(1000 / rps),
        throughputRps: one(rps),
        concurrency: 2,
      },
    },
  };
}

function request(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [main, 'request', root, ...args], { cwd: root }, (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, stdout, stderr });
    });
  });
}

it('answers with the best that fits, and queues a job for a closer one once', async () => {
  const { code, stdout } = await request('--max', 'throughput>=40/s');
  expect(stdout).toMatch(/^Version 2: the most accurate that meets throughput>=40\/s \(throughput 100\/s, /);
  expect(stdout).toMatch(/^Queued as job [0-9a-f]{16}: version 1 pruned to throughput=40\/s, between/m);
  expect(code).toBe(0);
  const again = await request('--max', 'throughput>=40/s', '--json');
  expect(JSON.parse(again.stdout)).toMatchObject({
    fits: true,
    variant: { version: 2 },
    closer: { kind: 'goal', goal: 'throughput=40/s', parent: 1, below: 2 },
    job: { state: 'queued', target: target.fingerprint, parent: digestOf(Uint8Array.of(1)) },
  });
  expect(await readdir(join(root, 'digits', 'jobs'))).toHaveLength(1);
});

it('answers with the nearest where none fits, says so, and ends with exit code 3', async () => {
  const { code, stdout } = await request('--max', 'latency<=2ms', '--no-queue');
  expect(stdout).toMatch(/^No variant meets latency<=2ms\. The nearest is version 2 \(latency 10ms, /);
  expect(code).toBe(3);
  expect(await readdir(join(root, 'digits', 'jobs'))).toHaveLength(1);
});

it('says how a job that failed is tried again', async () => {
  const { job } = JSON.parse((await request('--max', 'flops<=50M', '--json')).stdout);
  await settleJob(root, job, 'failed', 'Too narrow.');
  const { stdout } = await request('--max', 'flops<=50M');
  expect(stdout).toContain(`tried before (job ${job.id}): Too narrow.`);
  const file = join('digits', 'jobs', `${job.id}.json`);
  expect(stdout).toContain(`remove ${file} from the repository`);
  await rm(join(root, file));
  expect((await request('--max', 'flops<=50M')).stdout).toContain(`Queued as job ${job.id}`);
});

it('refuses bounds that cannot be read, and a target without profiles', async () => {
  const bad = await request('--max', 'throughput<=40');
  expect([bad.code, bad.stderr]).toEqual([2, expect.stringMatching(/bounded from below \(>=\)/)]);
  for (const bound of ['throughput>=40/s', 'params<=50']) {
    const unknown = await request('--max', bound, '--target', 'elsewhere');
    expect([bound, unknown.code]).toEqual([bound, 2]);
    expect(unknown.stderr).toContain(`${target.fingerprint} (`);
  }
});
