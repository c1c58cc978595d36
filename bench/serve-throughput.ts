/**
 * How much of ONNX Runtime's own speed is left behind REST and gRPC, what a request costs beside its inference, and does
 * it pay to run the network in the thread with the sockets? Raw and served windows alternate, all ways in turn; the
 * medians of their ratios count. CPU time tells most where others use the machine. Linux, two CPUs, see serve-harness.ts:
 * node dist/bench/bench/serve-throughput.js [repeats] [window ms] [network…]
 */
import { connect } from 'node:http2';
import { create, toBinary } from '@bufbuild/protobuf';
import { elementCount } from '../src/base/tensor.ts';
import { frameOf } from '../src/serve/grpc/framing.ts';
import { ModelInferRequestSchema } from '../src/serve/grpc/inference_pb.ts';
import {
  type BenchNetwork,
  type BenchServer,
  CLIENT_CPU,
  type ClosedLoop,
  clientOf,
  closedLoop,
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
const windowMs = Number(process.argv[3] ?? 2000);
const wanted = process.argv.slice(4);

/** Requests before anything counts: compilers reach their last tier after some thousands. */
const WARM_REQUESTS = 10_000;
const MAX_WARM_MS = 30_000;

const SHAPE = [1, 3, 32, 32];
const CASES = [
  { name: 'resnet20', load: () => sharedNetwork('models/resnet20-cifar10-torch2.onnx', SHAPE), levels: [4] },
  { name: 'resnet56', load: () => sharedNetwork('models/resnet56-cifar10-torch2.onnx', SHAPE), levels: [4] },
  { name: 'mlp', load: tinyNetwork, levels: [4, 16] },
];

interface Way {
  readonly label: string;
  readonly server: BenchServer;
  readonly infer: () => Promise<number>;
  readonly close: () => Promise<void>;
  readonly ratios: number[];
  readonly rates: number[];
  readonly beyondUs: number[];
  failures: number;
}

/** Calls ModelInfer on a few connections in turn. @returns 200 for an answer, 0 for anything else */
function grpcClientOf(address: string, model: string, network: BenchNetwork, connections: number) {
  const sessions = Array.from({ length: connections }, () => connect(`http://${address}`));
  /** The server gives up connections that idle while others are measured. */
  const sessionFor = (i: number) => {
    if (sessions[i]!.closed || sessions[i]!.destroyed) sessions[i] = connect(`http://${address}`);
    return sessions[i]!;
  };
  const frame = frameOf(
    toBinary(
      ModelInferRequestSchema,
      create(ModelInferRequestSchema, {
        modelName: model,
        inputs: [{ name: network.input, datatype: 'FP32', shape: network.shape.map(BigInt) }],
        rawInputContents: [new Uint8Array(4 * elementCount(network.shape))],
      }),
    ),
  );
  let next = 0;
  return {
    infer: () =>
      new Promise<number>((resolve) => {
        const stream = sessionFor(next++ % connections).request({
          ':method': 'POST',
          ':path': '/inference.GRPCInferenceService/ModelInfer',
          'content-type': 'application/grpc',
          te: 'trailers',
        });
        let isOk = false;
        stream.once('trailers', (trailers) => {
          isOk = trailers['grpc-status'] === '0';
        });
        stream.once('error', () => undefined).once('close', () => resolve(isOk ? 200 : 0));
        stream.resume();
        stream.end(frame);
      }),
    close: async () => {
      for (const session of sessions) session.destroy();
    },
  };
}

async function waysFor(
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
    const rest = clientOf(server.url, name, network, concurrency);
    const grpc = grpcClientOf(server.grpcAddress, name, network, Math.min(4, concurrency));
    ways.push({ label: `REST, ${place}`, server, infer: rest.infer, close: rest.close, ...results() });
    ways.push({ label: `gRPC, ${place}`, server, infer: grpc.infer, close: grpc.close, ...results() });
  }
  return ways;
}

async function warm({ infer }: Way, concurrency: number): Promise<void> {
  const stepMs = 1000;
  let requests = 0;
  for (let atMs = 0; atMs < MAX_WARM_MS && requests < WARM_REQUESTS; atMs += stepMs)
    requests += (await closedLoop({ infer }, concurrency, stepMs)).rps * (stepMs / 1000);
}

for (const { name, load, levels } of CASES) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  const network = load();
  const repository = await writeRepository({ [name]: [network] });
  for (const concurrency of levels) {
    const ways = await waysFor(repository.root, name, network, concurrency);
    pinTo(CLIENT_CPU);
    for (const way of ways) await warm(way, concurrency);
    let before = await rawRate(network, windowMs / 2);
    for (let i = 0; i < repeats; i++) {
      for (const way of ways) {
        const cpuBefore = cpuSecondsOf(way.server.pid);
        const served: ClosedLoop = await closedLoop(way, concurrency, windowMs);
        const cpuUs = ((cpuSecondsOf(way.server.pid) - cpuBefore) * 1e6) / (served.rps * (windowMs / 1000));
        const after = await rawRate(network, windowMs / 2);
        const raw = (before + after) / 2;
        before = after;
        way.ratios.push(served.rps / raw);
        way.rates.push(served.rps);
        way.beyondUs.push(cpuUs - 1e6 / raw);
        way.failures += served.failures;
      }
    }
    for (const { label, ratios, rates, beyondUs, failures } of ways) {
      say(
        `${name} c${concurrency}, ${label}: median ratio ${quantile(ratios, 0.5).toFixed(3)} (${Math.min(...ratios).toFixed(3)} to ${Math.max(...ratios).toFixed(3)}), ${quantile(rates, 0.5).toFixed(0)} requests/s, ${quantile(beyondUs, 0.5).toFixed(0)} µs of CPU beside the inference, failures ${failures}`,
      );
    }
    for (const way of ways) await way.close();
    for (const server of new Set(ways.map((way) => way.server))) await server.close();
  }
  await repository.remove();
}
