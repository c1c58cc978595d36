import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import S3rver from 's3rver';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { writeConstantFamily } from './constant-family.fixture.ts';
import { root, shown } from './shown-commands.fixture.ts';

const main = join(root, 'dist/cli/main.js');

/** What a clone alone cannot run within seconds, why, and where the same is run. `docs.test.ts` parses them all. */
const ELSEWHERE: readonly (readonly [RegExp, string])[] = [
  [
    /^(train|port|demo)\b/,
    'trains for minutes or hours: smaller in test/tutorial.test.ts, src/cli and npm run demo',
  ],
  [/^profile\b/, 'measures for minutes: src/cli/profile.test.ts, test/workers.test.ts'],
  [/^request\b/, 'needs a profile of this machine: src/cli/request.test.ts'],
  [/^stress\b/, 'asks a server that runs: test/tutorial.test.ts'],
  [/^(orchestrate|fleet)\b/, 'needs servers that run: test/cli.test.ts, test/e2e/fleet.test.ts'],
  [/^kubernetes controller\b/, 'needs a cluster: test/kubernetes.test.ts'],
  [/^download\b/, 'needs the internet: src/cli/download.test.ts'],
  [/^experiment (all (?!--redraw)|coallocation)/, 'measures for long: test/experiment.test.ts'],
  [/^simulate --trace day\.csv/, 'a trace of the reader: test/simulate.test.ts'],
  [/--compare all/, 'simulates for minutes: test/simulate.test.ts'],
  [/\bcifar10:/, 'needs data that a clone does not have: test/zoo.test.ts'],
  [/--second-opinion http/, 'needs a second server: test/cloud.test.ts'],
];

/** What a reader has elsewhere or under other names: [in pages, here]. */
const HERE: readonly (readonly [RegExp, string])[] = [
  [/ --port \d+/, ' --port 0'],
  [/ --grpc-port \d+/, ' --grpc-port 0'],
  [/ --metrics-port \d+/, ' --metrics-port 0'],
  [/--modelmesh-models \/models/, '--modelmesh-models models'],
  [/kubectl apply -f -/, 'cat'],
  [/> ~\/\S+/, ''],
  [/\| jq .*/, ''],
  // Those of mnist may have gone as dominated.
  [/repo remove models mnist 7 9/, 'repo remove models cifar10 7 9'],
  [/ {3,}#.*/, ''],
  // What a machine can do depends on what else it does.
  [/throughput=2000\/s/, 'throughput=200/s'],
];

const LIMIT_MS = 60_000;
const WAIT = { timeout: LIMIT_MS, interval: 50 };

const lines = [...new Set(shown.map(({ line }) => line))];
/** Stored results that pages draw again. */
const redrawn = lines.flatMap((line) => /--redraw (experiments\/\S+)/.exec(line)?.[1] ?? []);
const elsewhere = (line: string) => ELSEWHERE.find(([pattern]) => pattern.test(line));

describe('commands that pages show', () => {
  let folder: string;
  let store: S3rver;
  let endpoint: string;
  const children: ChildProcess[] = [];

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'bonsai-shown-'));
    store = new S3rver({
      ...{ address: '127.0.0.1', port: 0, silent: true, directory: join(folder, 's3rver') },
      configureBuckets: ['edge-models', 'edge-samples', 'models'].map((name) => ({ name, configs: [] })),
    });
    endpoint = `http://127.0.0.1:${(await store.run()).port}`;
    const zoo = join(root, 'zoo/models');
    await cp(zoo, join(folder, 'zoo/models'), { recursive: true });
    for (const task of ['mnist', 'cifar10'])
      await cp(join(zoo, task), join(folder, 'models', task), { recursive: true });
    await writeConstantFamily(join(folder, 'models'), 'digits', [
      [0.9, 10],
      [0.8, 20],
    ]);
    await mkdir(join(folder, '.bonsai/demo'), { recursive: true });
    for (const [file, model] of [
      ['mine', 'mnist/2'],
      ['digits', 'mnist/2'],
      ['.bonsai/demo/base', 'mnist/2'],
      ['resnet18', 'cifar10/1'],
      ['resnet20', 'cifar10/1'],
    ] as const)
      await cp(join(zoo, model, 'model.onnx'), join(folder, `${file}.onnx`));
    await writeFile(
      join(folder, 'mine.mjs'),
      `export default { name: 'mine', description: 'stays', requirements: [], initialState: () => ({}), decide: ({ state }) => ({ actions: [], reason: 'stay', state }) };`,
    );
    // What pages before have done, or a reader long ago.
    await ran('repo push models s3://edge-models/fleet');
    await ran('experiment complexity --quick --out results');
    for (const copy of ['.bonsai/experiments/full', ...redrawn])
      await cp(join(folder, 'results'), join(folder, copy), { recursive: true });
  });
  afterAll(async () => {
    for (const child of children) child.kill('SIGKILL');
    await store.close();
    await rm(folder, { recursive: true, force: true });
  });

  const here = (line: string) =>
    HERE.reduce((text, [from, to]) => text.replace(from, to), line).replace(
      'http://127.0.0.1:9000',
      endpoint,
    );

  /** As a shell runs it. `ended` is its exit code. */
  function start(line: string) {
    const child = spawn('sh', ['-c', `exec "${process.execPath}" "${main}" ${here(line)}`], {
      cwd: folder,
      env: {
        ...process.env,
        ...{ CI: 'true', BONSAI_PORT: '0', BONSAI_GRPC_PORT: '0', BONSAI_METRICS_PORT: '0' },
        ...{ BONSAI_CONTROL_PORT: '0', XDG_CACHE_HOME: join(folder, 'cache'), AWS_ENDPOINT_URL_S3: endpoint },
        ...{ AWS_ACCESS_KEY_ID: 'S3RVER', AWS_SECRET_ACCESS_KEY: 'S3RVER', AWS_REGION: 'us-east-1' },
      },
    });
    children.push(child);
    let said = '';
    for (const stream of [child.stdout!, child.stderr!])
      stream.setEncoding('utf8').on('data', (text: string) => {
        said += text;
      });
    const ended = once(child, 'close').then(([code]) => code as number | null);
    return { child, ended, said: () => said };
  }

  async function ran(line: string): Promise<void> {
    const { ended, said } = start(line);
    expect(await ended, said()).toBe(0);
  }

  it('are run here, or a reason is given', () => {
    expect(lines.length).toBeGreaterThan(100);
    expect(ELSEWHERE.filter(([pattern]) => !lines.some((line) => pattern.test(line)))).toEqual([]);
    const tests = ELSEWHERE.flatMap(([, reason]) => reason.match(/[\w/-]+\.test\.ts/g) ?? []);
    expect(tests.filter((file) => !existsSync(join(root, file)))).toEqual([]);
  });

  it.each(lines.filter((line) => elsewhere(line) === undefined))(
    'bonsai %s',
    { timeout: LIMIT_MS },
    async (line) => {
      const { child, ended, said } = start(
        availableParallelism() < 4
          ? line.replace(/--cpus 0-\d/, '--cpus 0').replace(/--threads \d/, '')
          : line,
      );
      if (line.startsWith('serve')) {
        const url = await vi.waitFor(() => {
          expect(child.exitCode, said()).toBeNull();
          return /REST (\S+),/.exec(said())![1]!;
        }, WAIT);
        expect((await fetch(`${url}/v2/health/live`)).status).toBe(200);
        child.kill('SIGTERM');
      }
      const code = await ended;
      // A doctor who finds something says so by 1, and so does a score on other images.
      expect(/^(doctor|repo score)/.test(line) ? [0, 1] : [0], said()).toContain(code);
      expect(said()).not.toBe('');
    },
  );
});
