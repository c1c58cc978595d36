import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { hasTaskset } from '../src/cli/command-process.ts';
import { withMetadata } from '../src/graph/model.ts';
import { writeModelFile } from '../src/graph/onnx/write.ts';
import { openObjectStore } from '../src/repository/s3/aws-object-store.ts';
import { readRemoteManifest } from '../src/repository/s3/pull-task.ts';
import { pushTask } from '../src/repository/s3/push-task.ts';
import { parseS3Url } from '../src/repository/s3/s3-url.ts';
import { DOUBLE_CREDENTIALS, StoreDouble } from '../src/repository/s3/store-double.fixture.ts';
import type { TaskManifest, Variant } from '../src/repository/types.ts';
import { randomNetwork } from '../src/transform/prune/networks.fixture.ts';
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

/** Others may have the machine for a while. */
const MAX_TRIES = 8;

/**
 * What a command says that has to end well, and its result. It is started again where the machine was too busy to measure:
 * as it says itself, it then goes on.
 */
async function finished(begin: () => Running): Promise<{ result: Record<string, unknown>; stderr: string }> {
  let said = '';
  for (let tries = 1; ; tries++) {
    const { code, stdout, stderr } = await begin().ended;
    said += stderr;
    if (code !== 0 && tries < MAX_TRIES && /server_unreachable|load_failed/.test(stderr)) continue;
    expect(code, said).toBe(0);
    return { result: JSON.parse(stdout), stderr: said };
  }
}

const resultOf = async (begin: () => Running) => (await finished(begin)).result;

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
const LONG_MS = 600_000;
const QUICK = ['--runs', '10', '--window', '100ms', '--repeats', '2', '--json'];

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
      resultOf(() => start(profile('a'), 0)),
      resultOf(() => start(profile('b'), 1)),
    ]);
    expect(first).toMatchObject({ worker: { index: 0, count: 2 } });
    expect(second).toMatchObject({ worker: { index: 1, count: 2 } });
    const versions = ({ profiled, skipped }: Record<string, unknown>) =>
      [...(profiled as number[]), ...(skipped as number[])].sort();
    expect([versions(first), versions(second)]).toEqual([[1, 3], [2]]);
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
    const again = await resultOf(() => start(profile('fresh disk'), 0));
    expect(again.skipped).toContain(1);
    expect([...(again.profiled as number[]), ...(again.skipped as number[])].sort()).toEqual([1, 3]);
    expect(measuredOn(await published(), again.target)).toEqual([1, 3]);
    const writes = () => double.requests.filter(isManifestWrite).length;
    const before = writes();
    expect(await resultOf(() => start(profile('a'), 0))).toMatchObject({ profiled: [], skipped: [1, 3] });
    expect(writes()).toBe(before);
  });

  it('end well where there is nothing left to do, and at once where they are called wrongly', {
    timeout: LONG_MS,
  }, async () => {
    const many = profile('a').map((word) => (word === '2' ? '9' : word));
    expect(await resultOf(() => start(many, 5))).toMatchObject({
      worker: { index: 5, count: 9 },
      profiled: [],
    });
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
      const { result, stderr } = await finished(() => start(words));
      // What was measured before the machine was too busy is not measured again.
      const versions = [...(result.profiled as number[]), ...(result.skipped as number[])];
      expect(versions.sort((a, b) => a - b)).toEqual([1, 2, 3]);
      expect(measuredOn(result as unknown as TaskManifest, result.target)).toEqual([1, 2, 3]);
      const [one, two] = [1, 2].map(
        (worker) => new RegExp(`^worker ${worker} of 2: server on CPU (\\d+)`, 'm').exec(stderr)?.[1],
      );
      expect(one).not.toBe(two);
      expect(stderr).toMatch(/^\[2\/2\] Profiling digits/m);
      expect(await readdir(join(models, 'digits'))).not.toContain('bonsai.json.lock');
    },
  );
});

describe('workers that port', () => {
  /** As `stripes()` of the fixtures: five classes, told apart by the position of a bright column. */
  const DATA = `
    const split = (count) => ({
      count,
      labels: Uint8Array.from({ length: count }, (_, i) => i % 5),
      images: Uint8Array.from({ length: count * 128 }, (_, at) =>
        at % 8 === (Math.floor(at / 128) % 5) + 1 ? 255 : (at * 2654435761) % 64),
    });
    export const name = 'stripes';
    export const load = async () => ({
      name, classes: ['a', 'b', 'c', 'd', 'e'], shape: [2, 8, 8],
      train: split(80), validation: split(20), test: split(40), normalization: { mean: [0, 0], std: [1, 1] },
    });`;

  beforeEach(async () => {
    const network = withMetadata(randomNetwork(['bn-relu', 'residual'], 'gap', 4), {
      'bonsai.backbone': '{"name":"tiny"}',
    });
    await writeModelFile(network, join(folder, 'base.onnx'));
    await writeFile(join(folder, 'data.mjs'), DATA);
  });

  const port = (work: string, out: string, ...more: string[]) => [
    ...['port', 'base.onnx', '--data', './data.mjs', '--task', 'digits', '--ratios', '0.25,0.5'],
    ...['--chain', 'base', '--align', '1', '--keep', 'all', '--threads', '1', '--window', '100ms', '--json'],
    ...['--work', work, '--out', out, ...more],
  ];
  const familyIn = (result: unknown) => (result as TaskManifest).variants.map(({ digest }) => digest);

  it.skipIf(availableParallelism() < 2)(
    'make the family of one worker on one machine, and on several by way of a bucket, though one was killed',
    { timeout: 2 * LONG_MS },
    async () => {
      const alone = familyIn(await resultOf(() => start(port('alone', 'models'))));
      expect(alone).toHaveLength(3);

      const { result, stderr } = await finished(() => start(port('together', 'joint', '--workers', '2')));
      expect(familyIn(result)).toEqual(alone);
      expect(stderr).toMatch(/^\[1\/2\] Made ratio 0\.\d+: \d+\.\d % of test examples right\.$/m);
      expect(stderr).toMatch(/^\[2\/2\] Done by worker 2 of 2: 1 branch\.$/m);
      expect(stderr).toMatch(/reused/i);

      const pod = (index: number, disk: string) => start(port(disk, url, '--workers', '2'), index);
      const [killed, other] = [pod(0, 'disk 0'), pod(1, 'disk 1')];
      await vi.waitFor(
        () => expect([...double.objects.keys()].some((key) => /steps\/evaluate/.test(key))).toBe(true),
        { timeout: LONG_MS, interval: 20 },
      );
      killed.child.kill('SIGKILL');
      await killed.ended;
      let isBegun = true;
      const waiting = await resultOf(() => {
        const running = isBegun ? other : pod(1, 'disk 1');
        isBegun = false;
        return running;
      });
      const again = await resultOf(() => pod(0, 'fresh disk'));
      // Whether the one that was killed was through already or not: somebody was the last.
      const joined = [waiting, again].filter(({ isJoined }) => isJoined === true);
      expect(joined.length).toBeGreaterThan(0);
      for (const result of joined) expect(familyIn(result)).toEqual(alone);
      expect(familyIn(await published())).toEqual(alone);
      expect(again).toMatchObject({ worker: { index: 0, count: 2 }, isComplete: true, isLast: true });

      // A pod that is started again changes nothing: all that was measured is kept, too.
      const before = double.objects.get('fleet/digits/bonsai.json')!.etag;
      expect(await resultOf(() => pod(1, 'disk 1'))).toMatchObject({ isJoined: true });
      expect(double.objects.get('fleet/digits/bonsai.json')!.etag).toBe(before);
    },
  );

  it('add to one family at once, and neither drops what the other has made', {
    timeout: LONG_MS,
  }, async () => {
    const adding = (ratio: string) => [...port(`work ${ratio}`, 'models', '--add'), ...['--ratios', ratio]];
    expect(familyIn(await resultOf(() => start(port('first', 'models', '--ratios', '0.25'))))).toHaveLength(
      2,
    );
    await Promise.all(['0.5', '0.75'].map((ratio) => resultOf(() => start(adding(ratio)))));
    const { variants } = JSON.parse(await readFile(join(folder, 'models', 'digits', 'bonsai.json'), 'utf8'));
    expect((variants as Variant[]).map(({ lineage }) => lineage.pruning?.ratio ?? 0).sort()).toEqual([
      ...[0, 0.25, 0.5, 0.75],
    ]);
  });

  it('leave the family to others where they are told to, have nothing to do beyond the pieces, and refuse jobs', {
    timeout: LONG_MS,
  }, async () => {
    const idle = await resultOf(() => start(port('a', url, '--workers', '9'), 7));
    expect(idle).toEqual({
      ...{ task: 'digits', worker: { index: 7, count: 9 }, branches: 0 },
      ...{ isComplete: true, isLast: false, isJoined: false },
    });
    const words = port('b', 'models', '--workers', '1', '--worker-index', '0', '--no-join');
    expect(await resultOf(() => start(words))).toMatchObject({ branches: 2, isLast: true, isJoined: false });
    expect(await readdir(join(folder, 'models'))).toEqual([]);
    const jobs = ['port', '--jobs', '--data', './data.mjs', '--workers', '2', '--out', 'models'];
    expect(await start(jobs).ended).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/leave --workers away, or --jobs/),
    });
  });
});
