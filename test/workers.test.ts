import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { hasTaskset } from '../src/cli/command-process.ts';
import { openObjectStore } from '../src/repository/s3/aws-object-store.ts';
import { readRemoteManifest } from '../src/repository/s3/pull-task.ts';
import { pushTask } from '../src/repository/s3/push-task.ts';
import { parseS3Url } from '../src/repository/s3/s3-url.ts';
import { DOUBLE_CREDENTIALS, StoreDouble } from '../src/repository/s3/store-double.fixture.ts';
import type { TaskManifest } from '../src/repository/types.ts';
import { writeConstantFamily } from './constant-family.fixture.ts';

const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));

let folder: string;
let double: StoreDouble;
let url: string;
const children: ChildProcess[] = [];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-workers-'));
  double = new StoreDouble();
  await double.start();
  url = double.urlOf('fleet');
});
afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  await double.stop();
  await rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
});

interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface Running {
  readonly child: ChildProcess;
  readonly ended: Promise<Outcome>;
}

/** @param index that Kubernetes would set; undefined: outside of a Job */
function start(words: readonly string[], index?: number | string): Running {
  const { JOB_COMPLETION_INDEX: _, ...environment } = process.env;
  const child = spawn(process.execPath, [main, ...words], {
    cwd: folder,
    env: {
      ...environment,
      AWS_ACCESS_KEY_ID: DOUBLE_CREDENTIALS.accessKeyId,
      AWS_SECRET_ACCESS_KEY: DOUBLE_CREDENTIALS.secretAccessKey,
      ...(index !== undefined && { JOB_COMPLETION_INDEX: String(index) }),
    },
  });
  children.push(child);
  const texts = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr'] as const)
    child[stream].setEncoding('utf8').on('data', (text: string) => {
      texts[stream] += text;
    });
  const ended = once(child, 'close').then(([code]) => ({ code: code as number | null, ...texts }));
  return { child, ended };
}

/** The result of a command that has to end well. */
async function resultOf({ ended }: Running): Promise<Record<string, unknown>> {
  const { code, stdout, stderr } = await ended;
  expect(code, stderr).toBe(0);
  return JSON.parse(stdout);
}

function openStore() {
  return openObjectStore(parseS3Url(url), { credentials: DOUBLE_CREDENTIALS });
}

async function published(): Promise<TaskManifest> {
  const store = openStore();
  try {
    return await readRemoteManifest(store, 'digits');
  } finally {
    store.close();
  }
}

const isManifestWrite = ({ method, key }: { method: string; key: string }) =>
  method === 'PUT' && key.endsWith('digits/bonsai.json');

/** Servers that start and processes that measure, on a machine that does much else. */
const LONG_MS = 300_000;
const QUICK = ['--runs', '10', '--window', '500ms', '--repeats', '2', '--json'];

describe('workers that profile', () => {
  const write = () =>
    writeConstantFamily(join(folder, 'models'), 'digits', [
      [0.9, 10],
      [0.8, 20],
      [0.7, 30],
    ]);
  const profile = (work: string, ...more: string[]) => [
    ...['profile', url, '--task', 'digits', '--workers', '2', '--work', work],
    ...[...QUICK, ...more],
  ];
  const measuredOn = ({ variants }: TaskManifest, target: unknown) => {
    const { fingerprint } = target as { fingerprint: string };
    return variants.filter(({ profiles }) => fingerprint in profiles).map(({ version }) => version);
  };

  beforeEach(async () => {
    await write();
    const store = openStore();
    await pushTask(store, join(folder, 'models'), 'digits', { nowMs: Date.now() });
    store.close();
  });

  it('share the versions of a family in a bucket and lose nothing of each other, nor of other hardware', {
    timeout: LONG_MS,
  }, async () => {
    // Before the first description is written, somebody with another machine is quicker.
    let isFirst = true;
    double.fault = (request) => {
      if (!isFirst || !isManifestWrite(request)) return undefined;
      isFirst = false;
      const { manifestDigest: _, ...manifest } = JSON.parse(
        double.objects.get(request.key)!.bytes.toString(),
      );
      manifest.variants[0].profiles.arm = {
        ...manifest.variants[0].profiles.test,
        target: { ...manifest.variants[0].profiles.test.target, fingerprint: 'arm' },
      };
      double.put(request.key, Buffer.from(JSON.stringify(manifest)));
      return undefined;
    };
    const [first, second] = await Promise.all([
      resultOf(start(profile('a'), 0)),
      resultOf(start(profile('b'), 1)),
    ]);
    expect(first).toMatchObject({ worker: { index: 0, count: 2 }, profiled: [1, 3], skipped: [] });
    expect(second).toMatchObject({ worker: { index: 1, count: 2 }, profiled: [2], skipped: [] });
    const manifest = await published();
    expect(measuredOn(manifest, first.target)).toEqual([1, 2, 3]);
    expect(manifest.variants[0]!.profiles).toHaveProperty('arm');
    expect(isFirst).toBe(false);
  });

  it('go on in another pod where one was killed, and do nothing twice', { timeout: LONG_MS }, async () => {
    const killed = start(profile('a'), 0);
    await vi.waitFor(() => expect(double.requests.some(isManifestWrite)).toBe(true), {
      timeout: LONG_MS,
      interval: 50,
    });
    await vi.waitFor(
      async () => expect(Object.keys((await published()).variants[0]!.profiles)).toHaveLength(2),
      { timeout: LONG_MS, interval: 50 },
    );
    killed.child.kill('SIGKILL');
    await killed.ended;
    const again = await resultOf(start(profile('fresh disk'), 0));
    expect(again).toMatchObject({ profiled: [3], skipped: [1] });
    expect(measuredOn(await published(), again.target)).toEqual([1, 3]);
    const writes = () => double.requests.filter(isManifestWrite).length;
    const before = writes();
    expect(await resultOf(start(profile('a'), 0))).toMatchObject({ profiled: [], skipped: [1, 3] });
    expect(writes()).toBe(before);
  });

  it('end well where there is nothing left to do, and at once where they are called wrongly', {
    timeout: LONG_MS,
  }, async () => {
    const many = profile('a').map((word) => (word === '2' ? '9' : word));
    expect(await resultOf(start(many, 5))).toMatchObject({ worker: { index: 5, count: 9 }, profiled: [] });
    const { stdout } = await start(
      many.filter((word) => word !== '--json'),
      5,
    ).ended;
    expect(stdout).toBe('Nothing to do for worker 6 of 9: digits has 3 versions.\n');
    for (const [words, index, complaint] of [
      [profile('a'), 2, /JOB_COMPLETION_INDEX is 2, but of 2 workers/],
      [profile('a'), 'x', /JOB_COMPLETION_INDEX is "x"/],
      [profile('a', '--target', 'http://127.0.0.1:9'), 0, /--target is one for all/],
      [profile('a', '--cpus', '0-4095'), undefined, /servers of 4096 CPUs need 8192/],
    ] as const) {
      const { code, stderr } = await start(words, index).ended;
      expect([code, stderr]).toEqual([2, expect.stringMatching(complaint)]);
    }
  });

  it.skipIf(availableParallelism() < 2 || !hasTaskset())(
    'measure at once on one machine, each on a CPU of its own, into one folder',
    { timeout: LONG_MS },
    async () => {
      const models = join(folder, 'models');
      const words = ['profile', models, '--workers', '2', ...QUICK];
      const together = start(words);
      const result = await resultOf(together);
      expect(result).toMatchObject({ profiled: [1, 2, 3], skipped: [] });
      expect(measuredOn(result as unknown as TaskManifest, result.target)).toEqual([1, 2, 3]);
      const { stderr } = await together.ended;
      const [one, two] = [1, 2].map(
        (worker) => new RegExp(`^worker ${worker} of 2: server on CPU (\\d+)`, 'm').exec(stderr)?.[1],
      );
      expect(one).not.toBe(two);
      expect(stderr).toMatch(/^\[2\/2\] Profiling digits/m);
      expect(await readdir(join(models, 'digits'))).not.toContain('bonsai.json.lock');
    },
  );
});
