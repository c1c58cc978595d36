import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pino from 'pino';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../base/clock.ts';
import { float32Tensor } from '../base/tensor.ts';
import { describeTarget } from '../engine/target.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { whileContested } from '../load/contest.ts';
import { digestOf } from '../repository/digest.ts';
import { updateProfiles } from '../repository/profiles.ts';
import { readManifest, writeTask } from '../repository/store.ts';
import {
  MANIFEST_SCHEMA_VERSION,
  type Profile,
  type TaskManifest,
  type Variant,
} from '../repository/types.ts';
import { type RunningServer, startServer } from '../serve/server.ts';
import { accuracyNotice, parseContest, parsePercentages } from './profile.ts';
import { profiledServer } from './profile-server.ts';
import { fetchTask } from './remote-task.ts';
import { seededInputs } from './seeded-inputs.ts';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-profile-'));
});
afterAll(() => rm(folder, { recursive: true }));

function bonsai(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [main, ...args], { cwd: folder }, (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, stdout, stderr });
    });
  });
}

const WIDTH = 4096;
const DEPTH = 16;

/** logits = f(image) · W, of which another version has another W. */
function network(version: number): Uint8Array {
  const b = new GraphBuilder('product');
  let flat = b.op('Flatten', [b.input('image', 'float32', ['N', 1, 4, 4])], { axis: 1 });
  // Some work, so that the server and not who measures it is the bottleneck.
  const there = b.constant(float32Tensor([16, WIDTH], new Float32Array(16 * WIDTH).fill(0.01)));
  const back = b.constant(float32Tensor([WIDTH, 16], new Float32Array(16 * WIDTH).fill(0.01)));
  for (let i = 0; i < DEPTH; i++)
    flat = b.op('Sigmoid', [b.op('MatMul', [b.op('Exp', [b.op('MatMul', [flat, there])]), back])]);
  const weights = Float32Array.from({ length: 16 * 3 }, (_, i) => Math.sin(version + i));
  const logits = b.op(
    'MatMul',
    [flat, b.constant(float32Tensor([16, 3], weights))],
    {},
    { outputs: ['logits'] },
  );
  b.output(logits, 'float32', ['N', 3]);
  return writeModel(modelOf(b.finish()));
}

async function writeFamily(root: string, task: string, versions: readonly number[]): Promise<void> {
  const models = new Map(versions.map((version) => [version, network(version)]));
  const variants = [...models].map(
    ([version, bytes]): Variant => ({
      version,
      digest: digestOf(bytes),
      sizeBytes: bytes.byteLength,
      accuracy: { test: 1 - version / 10, testCount: 100 },
      macs: 48,
      parameters: 48,
      lineage: {},
      profiles: {},
    }),
  );
  await writeTask(
    root,
    {
      schemaVersion: MANIFEST_SCHEMA_VERSION,
      task,
      inputs: [{ name: 'image', dtype: 'float32', shape: [-1, 1, 4, 4] }],
      outputs: [{ name: 'logits', dtype: 'float32', shape: [-1, 3] }],
      variants,
    },
    models,
  );
}

/** Short windows: what is looked at is what was measured, never how much. */
const QUICK = ['--runs', '20', '--window', '250ms', '--repeats', '2', '--json'];

interface Result extends TaskManifest {
  readonly target: { readonly fingerprint: string; readonly cpus: number };
  readonly profiled: readonly number[];
  readonly skipped: readonly number[];
}

async function profile(...args: string[]): Promise<Result> {
  const { code, stdout, stderr } = await bonsai('profile', ...args, ...QUICK);
  expect(code, stderr).toBe(0);
  return JSON.parse(stdout);
}

const FIGURE = { count: 1000, mean: 1, median: 1, min: 0.8, max: 1 };

/** What porting leaves in a repository. */
const PORTED = { latencyMs: FIGURE, throughputRps: FIGURE, concurrency: 4 };
const COMPLETE = {
  ...PORTED,
  ...{ latencyMs: { ...FIGURE, p95: 1 }, unbatchedRps: FIGURE, loadMs: 1, memoryBytes: 1 },
};

/** This machine with one CPU; which of the two depends on whether the system can bind processes. */
const HERE = [describeTarget({ cpus: 1 }), describeTarget({ cpus: 1, isPinned: false })];

async function know(
  root: string,
  task: string,
  version: number,
  profile: Omit<Profile, 'target' | 'measuredAt'>,
): Promise<void> {
  for (const target of HERE) {
    const measuredAt = '2026-01-01T00:00:00.000Z';
    await updateProfiles(root, task, new Map([[version, { target, measuredAt, ...profile }]]));
  }
}

/** Measuring takes seconds, on a machine that does much else a minute. */
const LONG_MS = 240_000;

function start(repository: string, cpus?: readonly number[]): Promise<RunningServer> {
  const logger = pino({ level: 'silent' });
  return startServer({ repository, logger, clock: systemClock, httpPort: 0, metricsPort: 0, cpus });
}

describe('bonsai profile', () => {
  it('measures what is missing of each variant on a server of its own, and nothing twice', {
    timeout: LONG_MS,
  }, async () => {
    const root = join(folder, 'local');
    await writeFamily(root, 'digits', [1, 2]);
    await writeFamily(root, 'bees', [3]);
    await know(root, 'digits', 2, PORTED);
    const options = ['--task', 'digits', '--cpus', '0', '--contest', 'bees', '--contest-share', '10'];
    const { target, ...result } = await profile(root, ...options);
    expect(HERE.map(({ fingerprint }) => fingerprint)).toContain(target.fingerprint);
    expect(result).toMatchObject({ profiled: [1, 2], skipped: [] });
    const [fresh, known] = (await readManifest(root, 'digits')).variants.map(
      ({ profiles }) => profiles[target.fingerprint]!,
    );
    expect(fresh!.latencyMs).toMatchObject({
      count: 20,
      ...{ p95: expect.any(Number), p99: expect.any(Number), standardDeviation: expect.any(Number) },
    });
    expect(fresh!.latencySource).toBe('engine');
    expect(fresh!.throughputRps.count).toBe(2);
    const isNoisy = fresh!.throughputRps.max / fresh!.throughputRps.min > 1.15;
    expect(fresh!.noisy === true).toBe(isNoisy);
    // What porting measured stays, what it leaves out is there now.
    expect(known).toMatchObject({ ...PORTED, latencyMs: { count: 20 }, throughputRps: FIGURE });
    for (const measured of [fresh!, known!]) {
      const { throughputRps: maximum, unbatchedRps, loadMs, memoryBytes } = measured;
      for (const figure of [maximum.median, unbatchedRps?.median, loadMs, memoryBytes])
        expect(figure).toBeGreaterThan(0);
      expect(measured.contested).toMatchObject([{ by: { task: 'bees', version: 3 }, share: 0.1 }]);
      const { maximumRps, offeredRps, answeredRps, throughputRps } = measured.contested![0]!;
      for (const figure of [maximumRps, answeredRps, throughputRps.median]) expect(figure).toBeGreaterThan(0);
      expect(answeredRps).toBeLessThanOrEqual(offeredRps);
    }

    const text = await readFile(join(root, 'digits', 'bonsai.json'), 'utf8');
    const args = [...options, ...QUICK.filter((arg) => arg !== '--json')];
    const { stdout, stderr } = await bonsai('profile', root, ...args);
    expect(stdout).toMatch(/^version +1 CPU, 10 % for bees\/3$/m);
    expect(stderr).toMatch(/not measured: versions 1, 2/);
    expect(await readFile(join(root, 'digits', 'bonsai.json'), 'utf8')).toBe(text);
  });

  it('measures beside another version of the same task', { timeout: LONG_MS }, async () => {
    const root = join(folder, 'same');
    await writeFamily(root, 'digits', [1, 2]);
    await know(root, 'digits', 1, COMPLETE);
    await know(root, 'digits', 2, COMPLETE);
    const { target } = await profile(root, '--contest', 'digits:2', '--contest-share', '12.5');
    const { variants } = await readManifest(root, 'digits');
    for (const { profiles } of variants) {
      expect(profiles[target.fingerprint]).toMatchObject({
        ...COMPLETE,
        contested: [{ by: { task: 'digits', version: 2 }, share: 0.125 }],
      });
    }
  });

  it('profiles a running server over the network under the target that it describes, and leaves it as it was', {
    timeout: LONG_MS,
  }, async () => {
    const root = join(folder, 'remote');
    await writeFamily(root, 'digits', [1, 2]);
    await writeFamily(root, 'bees', [3]);
    const server = await start(root, [0]);
    try {
      const requestsBefore = server.models.get('bees').arrivals.accepted;
      const args = [
        '--task',
        'digits',
        '--target',
        server.httpUrl,
        '--contest',
        'bees',
        '--contest-share',
        '10',
      ];
      const result = await profile(root, ...args);
      const client = profiledServer({ url: server.httpUrl, signal: new AbortController().signal });
      const target = await client.target({ cpus: 7 });
      await client.close();
      expect(result).toMatchObject({ profiled: [1, 2], target });
      for (const { profiles } of (await readManifest(root, 'digits')).variants) {
        const measured = profiles[target.fingerprint]!;
        expect(measured).toMatchObject({
          target,
          latencySource: 'server',
          loadMs: expect.any(Number),
          contested: [{ share: 0.1 }],
        });
        // What only the machine itself could tell is left out rather than guessed.
        expect(measured.memoryBytes).toBeUndefined();
      }
      expect(server.models.get('bees').arrivals.accepted).toBeGreaterThan(requestsBefore);
      expect(server.models.get('digits').liveVersions.map(({ version }) => version)).toEqual([1]);
    } finally {
      await server.close();
    }
  });

  it('says what is missing: a target that does not answer, a contesting task that is not there', {
    timeout: LONG_MS,
  }, async () => {
    const root = join(folder, 'refusals');
    await writeFamily(root, 'digits', [1]);
    const absent = await bonsai('profile', root, '--target', 'http://127.0.0.1:9');
    expect(absent).toMatchObject({ code: 1, stderr: expect.stringMatching(/127\.0\.0\.1:9.*ECONNREFUSED/) });
    const contest = await bonsai('profile', root, '--contest', 'bees');
    expect(contest).toMatchObject({ code: 1, stderr: expect.stringMatching(/no task "bees".*\(digits\)/) });
    for (const [option, value] of [
      ['--contest-share', '0'],
      ['--contest-share', '25,x'],
      ['--contest', 'bees:two'],
      ['--target', 'edge'],
    ]) {
      const { code, stderr } = await bonsai('profile', root, option!, value!);
      expect(code, stderr).toBe(2);
      expect(stderr).toContain(value);
    }
    expect((await readManifest(root, 'digits')).variants[0]!.profiles).toEqual({});
  });

  it('keeps the mark of a noisy profile where profiles are read', async () => {
    const root = join(folder, 'noisy');
    await writeFamily(root, 'digits', [1, 2]);
    await know(root, 'digits', 1, { ...PORTED, noisy: true });
    await know(root, 'digits', 2, PORTED);
    expect(JSON.parse(await readFile(join(root, 'digits', 'bonsai.json'), 'utf8'))).toMatchObject({
      variants: [{ profiles: { [HERE[0]!.fingerprint]: { noisy: true } } }, {}],
    });
    const { stdout } = await bonsai('repo', 'show', root, 'digits');
    expect(stdout).toMatch(/^1 .* 1\.25 noisy/m);
    expect(stdout).toMatch(/^2 .* 1\.25( +yes)?$/m);
  });
});

describe('a contesting stream', () => {
  it('is really offered: the server counts as many requests as left, evenly, while the measurement runs', async () => {
    const root = join(folder, 'stream');
    await writeFamily(root, 'bees', [3]);
    const server = await start(root);
    try {
      const url = server.httpUrl;
      const inputs = seededInputs(await fetchTask(url, 'bees', 3), 1);
      const stream = await whileContested(
        {
          url,
          contestant: { task: 'bees', version: 3, inputs },
          rps: 200,
          longestMs: 60_000,
          seed: 1,
          clock: systemClock,
          signal: new AbortController().signal,
        },
        async () => {
          // Ends when the server, not a clock, says that fifty came in.
          while (server.models.get('bees').arrivals.accepted < 50)
            await new Promise((resolve) => setTimeout(resolve, 5));
          return 'measured';
        },
      );
      expect(stream.measured).toBe('measured');
      const { sent, answered, elapsedMs } = stream.stream;
      expect(server.models.get('bees').arrivals).toEqual({ accepted: sent, refused: 0, invalid: 0 });
      expect(answered).toBe(sent);
      // Never early: request k is due k · 5 ms after the start.
      expect(sent).toBeLessThanOrEqual(elapsedMs / 5 + 1);
      expect(sent).toBeGreaterThanOrEqual(50);
    } finally {
      await server.close();
    }
  });

  it('ends with a measurement that fails, whose error is told', async () => {
    const root = join(folder, 'stream-fails');
    await writeFamily(root, 'bees', [3]);
    const server = await start(root);
    try {
      const url = server.httpUrl;
      const inputs = seededInputs(await fetchTask(url, 'bees', 3), 1);
      const options = {
        ...{ url, contestant: { task: 'bees', version: 3, inputs }, rps: 50, longestMs: 60_000, seed: 1 },
        ...{ clock: systemClock, signal: new AbortController().signal },
      };
      await expect(whileContested(options, () => Promise.reject(new Error('gone')))).rejects.toThrow('gone');
      await expect(whileContested({ ...options, rps: 0 }, async () => 1)).rejects.toMatchObject({
        code: 'invalid_argument',
      });
    } finally {
      await server.close();
    }
  });
});

describe('a server under measurement', () => {
  it('describes its target in its metadata, bound to its CPUs or not', async () => {
    const root = join(folder, 'targets');
    await writeFamily(root, 'digits', [1]);
    const server = await start(root);
    const client = profiledServer({ url: server.httpUrl, signal: new AbortController().signal });
    try {
      expect(await client.target({ name: 'ignored', cpus: 9 })).toEqual(
        describeTarget({ cpus: 1, isPinned: false }),
      );
      expect(await client.readyVersions('digits')).toEqual([1]);
      await expect(client.load('digits', [7])).rejects.toMatchObject({
        code: 'load_failed',
        message: expect.stringMatching(/no version 7/),
      });
    } finally {
      await client.close();
      await server.close();
    }
  });

  it('that describes none is known by its host and the name given', async () => {
    // What Triton answers.
    const other = createServer((_, response) => {
      response.end(JSON.stringify({ name: 'triton', version: '2.73.0', extensions: ['statistics'] }));
    });
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    const url = `http://127.0.0.1:${(other.address() as AddressInfo).port}`; // A TCP server's address is one.
    const client = profiledServer({ url, signal: new AbortController().signal });
    try {
      const target = await client.target({ name: 'edge box', cpus: 4 });
      expect(target).toMatchObject({
        ...{ host: '127.0.0.1', name: 'edge box', cpus: 4 },
        ...{ runtime: 'triton', runtimeVersion: '2.73.0' },
      });
      expect((await client.target({ cpus: 4 })).fingerprint).not.toBe(target.fingerprint);
    } finally {
      await client.close();
      other.closeAllConnections();
      other.close();
    }
  });
});

describe('options', () => {
  it('name a task and perhaps its version, and shares in percent', () => {
    expect(parseContest('bees')).toEqual({ task: 'bees' });
    expect(parseContest('bees:2')).toEqual({ task: 'bees', version: 2 });
    expect(parsePercentages('50,25,50')).toEqual([0.25, 0.5]);
    expect(parsePercentages('12.5')).toEqual([0.125]);
  });

  it('answers less accurate than the variant are told of, those within chance are not', () => {
    const variant = { version: 2, accuracy: { test: 0.9, testCount: 900 } };
    // One standard deviation of 900 answers is 0.01: 0.86 is at the edge of 0.01 + 4 · 0.01.
    expect(accuracyNotice(variant, { count: 5000, accuracy: 0.86 })).toEqual([]);
    expect(accuracyNotice(variant, { count: 5000, accuracy: 0.84 })[0]).toMatch(/84\.0 %.*90\.0 %/);
  });
});
