import { execFileSync, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { gunzipSync } from 'node:zlib';
import { Pool } from 'undici';
import { systemClock } from '../src/base/clock.ts';
import { seededRandom } from '../src/base/random.ts';
import { elementCount, float32Tensor } from '../src/base/tensor.ts';
import { MALLOC_ENVIRONMENT } from '../src/cli/malloc-environment.ts';
import { PreparedSession } from '../src/engine/prepared-session.ts';
import { GraphBuilder, modelOf } from '../src/graph/build.ts';
import { readModel } from '../src/graph/onnx/read.ts';
import { writeModel } from '../src/graph/onnx/write.ts';
import { digestOf } from '../src/repository/digest.ts';
import { writeTask } from '../src/repository/store.ts';
import { fillWeights } from '../src/transform/prune/networks.fixture.ts';

/*
 * What the benches of the server share: networks, a repository, a server in a process of its own on CPU 0, clients on
 * CPU 1. The benches run compiled, since inference threads do:
 * npm run build && npx tsc -p tsconfig.json --noEmit false --outDir dist/bench && node dist/bench/bench/NAME.js
 */

export const clock = systemClock;
export const SERVER_CPU = 0;
export const CLIENT_CPU = 1;

export interface BenchNetwork {
  readonly bytes: Uint8Array;
  readonly input: string;
  readonly output: string;
  readonly shape: readonly number[];
}

/** A file of the shared folder; weights that are not there are made up. */
export function sharedNetwork(path: string, shape: readonly number[]): BenchNetwork {
  const file = join(process.env.BONSAI_SHARED ?? '../shared', path);
  if (!existsSync(file))
    throw new Error(`${file} is not there; BONSAI_SHARED names the folder of shared networks.`);
  const raw = readFileSync(file);
  const model = readModel(path.endsWith('.gz') ? gunzipSync(raw) : raw);
  const bytes = path.endsWith('.gz') ? writeModel(fillWeights(model, 1)) : raw;
  return { bytes, input: model.graph.inputs[0]!.name, output: model.graph.outputs[0]!.name, shape };
}

/** 784 → 32 → 10: some 20 µs of computing, so that everything else shows. */
export function tinyNetwork(): BenchNetwork {
  const random = seededRandom(1);
  const weights = (rows: number, columns: number) =>
    float32Tensor(
      [rows, columns],
      Float32Array.from({ length: rows * columns }, () => random.normal() * 0.05),
    );
  const b = new GraphBuilder('mlp');
  const x = b.input('image', 'float32', ['N', 784]);
  const hidden = b.op('Relu', [b.op('MatMul', [x, b.constant(weights(784, 32))])]);
  b.output(b.op('MatMul', [hidden, b.constant(weights(32, 10))], {}, { outputs: ['logits'] }), 'float32', [
    'N',
    10,
  ]);
  return { bytes: writeModel(modelOf(b.finish())), input: 'image', output: 'logits', shape: [1, 784] };
}

/** Tasks by name, each with its networks as versions 1, 2, …: the first counts as the most accurate. */
export async function writeRepository(
  tasks: Readonly<Record<string, readonly BenchNetwork[]>>,
): Promise<{ root: string; remove: () => Promise<void> }> {
  const root = await mkdtemp(join(tmpdir(), 'bonsai-bench-'));
  for (const [task, networks] of Object.entries(tasks)) {
    const models = new Map(networks.map(({ bytes }, i) => [i + 1, bytes]));
    const first = networks[0]!;
    await writeTask(
      root,
      {
        schemaVersion: 1,
        task,
        inputs: [{ name: first.input, dtype: 'float32', shape: first.shape }],
        outputs: [{ name: first.output, dtype: 'float32', shape: [-1, -1] }],
        variants: [...models].map(([version, bytes]) => ({
          version,
          digest: digestOf(bytes),
          sizeBytes: bytes.byteLength,
          accuracy: { test: 1 - version / 10, testCount: 1 },
          macs: 1000 - version,
          parameters: 1,
          lineage: {},
          profiles: {},
        })),
      },
      models,
    );
  }
  return { root, remove: () => rm(root, { recursive: true, force: true }) };
}

/** Binds all threads of this process. */
export function pinTo(cpu: number, pid = process.pid): void {
  execFileSync('taskset', ['-acp', String(cpu), String(pid)], { stdio: 'ignore' });
}

/** Inferences per second of ONNX Runtime alone: a synchronous loop over its binding on the server's CPU. */
export async function rawRate(network: BenchNetwork, windowMs: number): Promise<number> {
  pinTo(SERVER_CPU);
  const session = await PreparedSession.create(network.bytes, {});
  const run = session.prepare([network.shape]);
  for (let i = 0; i < 20; i++) await run.run();
  const startMs = clock.nowMs();
  let count = 0;
  while (clock.nowMs() - startMs < windowMs) {
    run.run();
    count++;
  }
  const rate = (1000 * count) / (clock.nowMs() - startMs);
  pinTo(CLIENT_CPU);
  return rate;
}

export interface BenchServer {
  readonly url: string;
  /** HOST:PORT. */
  readonly grpcAddress: string;
  readonly metricsUrl: string;
  /** Of the live page; undefined unless `--control-port` asks for one. */
  readonly controlUrl: string | undefined;
  readonly pid: number;
  /** From the start of the process to its being ready. */
  readonly startMs: number;
  close(): Promise<void>;
}

/** `bonsai serve` on CPU 0, in a process of its own. */
export async function startServer(
  root: string,
  flags: readonly string[] = [],
  /** By default the settings of the allocator that `bonsai serve` has. */
  env?: Readonly<Record<string, string>>,
  /** Gets what the server logs, line by line; by default it is shown. */
  onLog?: (line: string) => void,
): Promise<BenchServer> {
  const main = join('dist', 'cli', 'main.js'); // Of the project's own build.
  const beginMs = clock.nowMs();
  const child = spawn(
    'taskset',
    [
      ...['-c', String(SERVER_CPU), process.execPath, main, 'serve', root, '--json', '--exit-with-parent'],
      ...[
        '--port',
        '0',
        '--metrics-port',
        '0',
        '--control-port',
        'off',
        '--cpus',
        String(SERVER_CPU),
        '--log-level',
        'error',
        ...flags,
      ],
    ],
    {
      stdio: ['pipe', 'pipe', onLog === undefined ? 'inherit' : 'pipe'],
      env: { ...process.env, ...(env ?? MALLOC_ENVIRONMENT) },
    },
  );
  if (onLog !== undefined) createInterface({ input: child.stderr! }).on('line', onLog);
  const ready = await new Promise<{
    http: string;
    grpc: string;
    metrics: string;
    control?: string;
  }>((resolve, reject) => {
    child.once('exit', (code) => reject(new Error(`the server ended with code ${code}`)));
    createInterface({ input: child.stdout! }).on('line', (line) => {
      if (line.startsWith('{"ready"')) resolve(JSON.parse(line));
    });
  });
  return {
    url: ready.http,
    grpcAddress: ready.grpc,
    metricsUrl: ready.metrics,
    controlUrl: ready.control,
    pid: child.pid!,
    startMs: clock.nowMs() - beginMs,
    close: () =>
      new Promise((resolve) => {
        child.removeAllListeners('exit');
        child.once('exit', () => resolve());
        child.kill('SIGTERM');
      }),
  };
}

export interface BenchClient {
  /** Sends one request. @returns the HTTP status; 0 if none came */
  readonly infer: (parameters?: object) => Promise<number>;
  readonly loadVersions: (task: string, versions: readonly number[]) => Promise<number>;
  readonly unload: (task: string) => Promise<number>;
  readonly close: () => Promise<void>;
}

/** Sends binary requests for one task. */
export function clientOf(
  url: string,
  task: string,
  network: Pick<BenchNetwork, 'input' | 'shape'>,
  connections: number,
): BenchClient {
  const pool = new Pool(url, { connections, pipelining: 1, headersTimeout: 0, bodyTimeout: 0 });
  const control = new Pool(url, { connections: 4, headersTimeout: 0, bodyTimeout: 0 });
  const random = seededRandom(2);
  const data = Float32Array.from({ length: elementCount(network.shape) }, () => random.uniform());
  const parts = (parameters: object) => {
    const head = Buffer.from(
      JSON.stringify({
        parameters: { binary_data_output: true, ...parameters },
        inputs: [
          {
            name: network.input,
            shape: network.shape,
            datatype: 'FP32',
            parameters: { binary_data_size: data.byteLength },
          },
        ],
      }),
    );
    return {
      body: Buffer.concat([head, new Uint8Array(data.buffer)]),
      headers: { 'inference-header-content-length': String(head.byteLength) },
    };
  };
  const usual = parts({});
  const command = async (path: string, body: object): Promise<number> => {
    const response = await control.request({ method: 'POST', path, body: JSON.stringify(body) });
    const text = await response.body.text();
    if (response.statusCode !== 200) process.stdout.write(`${path}: ${response.statusCode} ${text}\n`);
    return response.statusCode;
  };
  return {
    infer: async (parameters) => {
      try {
        const { body, headers } = parameters === undefined ? usual : parts(parameters);
        const path = `/v2/models/${task}/infer`;
        const response = await pool.request({ method: 'POST', path, body, headers });
        await response.body.dump({ limit: 1 << 20 });
        return response.statusCode;
      } catch {
        return 0;
      }
    },
    loadVersions: (name, versions) => {
      const config = JSON.stringify({ version_policy: { specific: { versions } } });
      return command(`/v2/repository/models/${name}/load`, { parameters: { config } });
    },
    unload: (name) => command(`/v2/repository/models/${name}/unload`, {}),
    close: async () => {
      await Promise.all([pool.destroy(), control.destroy()]);
    },
  };
}

export interface ClosedLoop {
  readonly rps: number;
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
  readonly failures: number;
}

/** Keeps so many requests under way for a while. */
export async function closedLoop(
  { infer }: Pick<BenchClient, 'infer'>,
  concurrency: number,
  windowMs: number,
): Promise<ClosedLoop> {
  const latencies: number[] = [];
  let failures = 0;
  const startMs = clock.nowMs();
  const keepOne = async () => {
    while (clock.nowMs() - startMs < windowMs) {
      const sentMs = clock.nowMs();
      if ((await infer()) !== 200) failures++;
      latencies.push(clock.nowMs() - sentMs);
    }
  };
  await Promise.all(Array.from({ length: concurrency }, keepOne));
  const rps = (1000 * latencies.length) / (clock.nowMs() - startMs);
  return {
    rps,
    failures,
    p50: quantile(latencies, 0.5),
    p99: quantile(latencies, 0.99),
    max: quantile(latencies, 1),
  };
}

export interface Sent {
  readonly dueMs: number;
  readonly latencyMs: number;
  readonly status: number;
}

/** Sends requests when they are due (ms from the start), whatever has come back; latency counts from the due time. */
export async function openLoop(
  infer: () => Promise<number>,
  dueTimesMs: readonly number[],
): Promise<readonly Sent[]> {
  const results: Promise<Sent>[] = [];
  const startMs = clock.nowMs();
  for (let next = 0; next < dueTimesMs.length; ) {
    const nowMs = clock.nowMs() - startMs;
    for (; next < dueTimesMs.length && dueTimesMs[next]! <= nowMs; next++) {
      const dueMs = dueTimesMs[next]!;
      results.push(infer().then((status) => ({ dueMs, status, latencyMs: clock.nowMs() - startMs - dueMs })));
    }
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  return Promise.all(results);
}

/** Poisson arrivals, ms from the start. */
export function poisson(rps: number, durationMs: number, seed: number): number[] {
  const random = seededRandom(seed);
  const times: number[] = [];
  for (let at = 0; ; ) {
    at += (-Math.log(1 - random.uniform()) * 1000) / rps;
    if (at >= durationMs) return times;
    times.push(at);
  }
}

/** CPU seconds that a process has used, all threads (Linux). */
export function cpuSecondsOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100; // utime and stime, in ticks of 10 ms.
}

/** Resident memory of a process in MB (Linux). */
export function residentMbOf(pid: number): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 1024;
}

export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}

export const sleep = (durationMs: number) => new Promise((resolve) => setTimeout(resolve, durationMs));

export function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** A chain of 3 × 3 convolutions on a small image: some 20 ms at width 96, like a network that fills an edge device. */
export function slowNetwork(width = 96): BenchNetwork {
  const random = seededRandom(1);
  const b = new GraphBuilder('chain');
  let x = b.input('image', 'float32', ['N', 1, 28, 28]);
  let channels = 1;
  for (let layer = 0; layer < 6; layer++) {
    const weights = Float32Array.from({ length: width * channels * 9 }, () => random.normal() * 0.1);
    const w = b.constant(float32Tensor([width, channels, 3, 3], weights));
    x = b.op('Relu', [b.op('Conv', [x, w], { kernel_shape: [3, 3], pads: [1, 1, 1, 1] })]);
    channels = width;
  }
  const pooled = b.op('Flatten', [b.op('GlobalAveragePool', [x])], { axis: 1 });
  b.output(b.op('Identity', [pooled], {}, { outputs: ['logits'] }), 'float32', ['N', width]);
  return { bytes: writeModel(modelOf(b.finish())), input: 'image', output: 'logits', shape: [1, 1, 28, 28] };
}
