/**
 * How much of ONNX Runtime's own speed is left behind REST and gRPC, what a request costs beside its inference, and does
 * it pay to run the network in the thread with the sockets? Raw and served windows alternate, one way after the other,
 * for a server that has idled is slower for seconds; the medians of their ratios count. The clients are `wrk` and `h2load`
 * (Debian: wrk, nghttp2-client), since one core of Node.js sends fewer requests than the server answers. Linux, two CPUs, see serve-harness.ts:
 * node dist/bench/bench/serve-throughput.js [repeats] [window s] [network…]
 */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { create, toBinary } from '@bufbuild/protobuf';
import { elementCount } from '../src/base/tensor.ts';
import { frameOf } from '../src/serve/grpc/framing.ts';
import { ModelInferRequestSchema } from '../src/serve/grpc/inference_pb.ts';
import {
  type BenchNetwork,
  type BenchServer,
  CLIENT_CPU,
  cpuSecondsOf,
  pinTo,
  quantile,
  rawRate,
  say,
  sharedNetwork,
  startServer,
  tinyNetwork,
  writeRepository,
} from './serve-harness.ts';

const repeats = Number(process.argv[2] ?? 5);
const windowS = Number(process.argv[3] ?? 2);
const wanted = process.argv.slice(4);

/** Compilers reach their last tier after some thousands of requests. */
const WARM_S = { resnet20: 10, resnet56: 25, mlp: 4 } as const;

const SHAPE = [1, 3, 32, 32];
const CASES = [
  { name: 'resnet20', load: () => sharedNetwork('models/resnet20-cifar10-torch2.onnx', SHAPE), levels: [4] },
  { name: 'resnet56', load: () => sharedNetwork('models/resnet56-cifar10-torch2.onnx', SHAPE), levels: [4] },
  { name: 'mlp', load: tinyNetwork, levels: [4, 16] },
] as const;

interface Load {
  /** Requests a second, and those without a good answer. */
  readonly rps: number;
  readonly failures: number;
}

interface Way {
  readonly label: string;
  readonly server: BenchServer;
  readonly run: (seconds: number) => Promise<Load>;
  readonly ratios: number[];
  readonly rates: number[];
  readonly beyondUs: number[];
  failures: number;
}

const execute = promisify(execFile);

async function client(command: string, args: readonly string[]): Promise<string> {
  try {
    return (await execute('taskset', ['-c', String(CLIENT_CPU), command, ...args])).stdout;
  } catch (cause) {
    throw new Error(`${command} failed; on Debian: apt-get install wrk nghttp2-client`, { cause });
  }
}

/** So many connections with one request under way on each. */
async function restWay(
  folder: string,
  url: string,
  name: string,
  network: BenchNetwork,
  connections: number,
) {
  const bytes = new Uint8Array(4 * elementCount(network.shape));
  const input = { name: network.input, datatype: 'FP32', shape: network.shape };
  const head = JSON.stringify({
    parameters: { binary_data_output: true },
    inputs: [{ ...input, parameters: { binary_data_size: bytes.byteLength } }],
  });
  const [bodyFile, script] = [join(folder, `${name}.rest`), join(folder, `${name}.lua`)];
  await writeFile(bodyFile, Buffer.concat([Buffer.from(head), bytes]));
  await writeFile(
    script,
    [
      'wrk.method = "POST"',
      `local file = io.open("${bodyFile}", "rb")`,
      'wrk.body = file:read("*a")',
      'file:close()',
      `wrk.headers["Inference-Header-Content-Length"] = "${head.length}"`,
    ].join('\n'),
  );
  return async (seconds: number): Promise<Load> => {
    const said = await client('wrk', [
      ...['-t1', `-c${connections}`, `-d${seconds}s`, '-s', script],
      `${url}/v2/models/${name}/infer`,
    ]);
    return {
      rps: Number(/Requests\/sec:\s+([\d.]+)/.exec(said)![1]),
      failures: Number(/Non-2xx or 3xx responses: (\d+)/.exec(said)?.[1] ?? 0),
    };
  };
}

/** One connection with so many streams, as client libraries for gRPC have it. */
async function grpcWay(
  folder: string,
  address: string,
  name: string,
  network: BenchNetwork,
  streams: number,
) {
  const frame = frameOf(
    toBinary(
      ModelInferRequestSchema,
      create(ModelInferRequestSchema, {
        modelName: name,
        inputs: [{ name: network.input, datatype: 'FP32', shape: network.shape.map(BigInt) }],
        rawInputContents: [new Uint8Array(4 * elementCount(network.shape))],
      }),
    ),
  );
  const bodyFile = join(folder, `${name}.grpc`);
  await writeFile(bodyFile, frame);
  return async (seconds: number): Promise<Load> => {
    const said = await client('h2load', [
      ...['-t1', '-c1', `-m${streams}`, '-D', String(seconds), '-d', bodyFile],
      ...['-H', 'content-type: application/grpc', '-H', 'te: trailers'],
      `http://${address}/inference.GRPCInferenceService/ModelInfer`,
    ]);
    return {
      rps: Number(/finished in [\d.]+m?s, ([\d.]+) req\/s/.exec(said)![1]),
      failures: Number(/(\d+) failed/.exec(said)?.[1] ?? 0),
    };
  };
}

async function waysFor(
  folder: string,
  root: string,
  name: string,
  network: BenchNetwork,
  concurrency: number,
): Promise<Way[]> {
  const ways: Way[] = [];
  for (const [place, flags] of [
    ['in a thread', ['--inline-below', 'off']],
    ['inline', ['--inline-below', '1s']],
  ] as const) {
    const server = await startServer(root, flags);
    const results = () => ({ ratios: [], rates: [], beyondUs: [], failures: 0 });
    const rest = await restWay(folder, server.url, name, network, concurrency);
    const grpc = await grpcWay(folder, server.grpcAddress, name, network, concurrency);
    ways.push({ label: `REST, ${place}`, server, run: rest, ...results() });
    ways.push({ label: `gRPC, ${place}`, server, run: grpc, ...results() });
  }
  return ways;
}

async function measure(way: Way, raw: () => Promise<number>, before: number): Promise<number> {
  const cpuBefore = cpuSecondsOf(way.server.pid);
  const { rps, failures } = await way.run(windowS);
  const cpuUs = ((cpuSecondsOf(way.server.pid) - cpuBefore) * 1e6) / (rps * windowS);
  const after = await raw();
  const rate = (before + after) / 2;
  way.ratios.push(rps / rate);
  way.rates.push(rps);
  way.beyondUs.push(cpuUs - 1e6 / rate);
  way.failures += failures;
  return after;
}

const folder = await mkdtemp(join(tmpdir(), 'bonsai-bench-clients-'));
for (const { name, load, levels } of CASES) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  const network = load();
  const repository = await writeRepository({ [name]: [network] });
  for (const concurrency of levels) {
    const ways = await waysFor(folder, repository.root, name, network, concurrency);
    pinTo(CLIENT_CPU);
    const raw = () => rawRate(network, windowS * 500);
    for (const way of ways) {
      await way.run(WARM_S[name]);
      let before = await raw();
      for (let i = 0; i < repeats; i++) before = await measure(way, raw, before);
    }
    for (const { label, ratios, rates, beyondUs, failures } of ways) {
      say(
        `${name} c${concurrency}, ${label}: median ratio ${quantile(ratios, 0.5).toFixed(3)} (${Math.min(...ratios).toFixed(3)} to ${Math.max(...ratios).toFixed(3)}), ${quantile(rates, 0.5).toFixed(0)} requests/s, ${quantile(beyondUs, 0.5).toFixed(0)} µs of CPU beside the inference, failures ${failures}`,
      );
    }
    for (const server of new Set(ways.map((way) => way.server))) await server.close();
  }
  await repository.remove();
}
await rm(folder, { recursive: true });
