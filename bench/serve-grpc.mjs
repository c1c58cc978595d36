/**
 * What does a gRPC request cost beyond the inference, and how many of a tiny network are answered in a second?
 * Build first, then: node bench/serve-grpc.mjs   (Linux, two CPUs: the server on 0, the clients on 1)
 *
 * `ServerLive` of this server and of the same method on @grpc/grpc-js compare the framing alone. `mlp` is a network of
 * 3072 inputs (12 KB a request) and two layers; its CPU time is the whole server's, the inference within it is measured
 * in the same process beforehand.
 */
import { execFileSync, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:http2';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create, toBinary } from '@bufbuild/protobuf';
import pino from 'pino';
import { systemClock } from '../dist/base/clock.js';
import { float32Tensor } from '../dist/base/tensor.js';
import { Session } from '../dist/engine/session.js';
import { GraphBuilder, modelOf } from '../dist/graph/build.js';
import { writeModel } from '../dist/graph/onnx/write.js';
import { frameOf } from '../dist/serve/grpc/framing.js';
import { ModelInferRequestSchema } from '../dist/serve/grpc/inference_pb.js';
import { startServer } from '../dist/serve/server.js';

const WINDOW_MS = Number(process.env.BENCH_WINDOW_MS ?? 2000);
const REPEATS = Number(process.env.BENCH_REPEATS ?? 5);
const CONNECTIONS = 4;
const INPUTS = 3072;
const SERVICE = '/inference.GRPCInferenceService/';

function network() {
  const b = new GraphBuilder('mlp');
  const image = b.input('image', 'float32', ['N', INPUTS]);
  const first = b.constant(float32Tensor([INPUTS, 16], new Float32Array(INPUTS * 16).fill(1e-4)));
  const second = b.constant(float32Tensor([16, 10], new Float32Array(160).fill(0.1)));
  const hidden = b.op('Relu', [b.op('MatMul', [image, first])]);
  b.output(b.op('MatMul', [hidden, second], {}, { outputs: ['logits'] }), 'float32', ['N', 10]);
  return writeModel(modelOf(b.finish()));
}

/** The CPU time of one inference without any server. */
async function inferenceUs(bytes) {
  const session = await Session.create(bytes);
  const feeds = { image: float32Tensor([1, INPUTS], new Float32Array(INPUTS).fill(0.5)) };
  const count = 2000;
  for (let i = 0; i < 200; i++) await session.run(feeds);
  const before = process.cpuUsage();
  for (let i = 0; i < count; i++) await session.run(feeds);
  const { user, system } = process.cpuUsage(before);
  await session.release();
  return (user + system) / count;
}

async function serveOurs(repository) {
  const server = await startServer({
    repository,
    logger: pino({ level: 'warn' }),
    clock: systemClock,
    httpPort: 0,
    metricsPort: 0,
    grpcPort: 0,
    cpus: [0],
  });
  return { address: server.grpcAddress, close: () => server.close() };
}

/** ServerLive alone, on the usual implementation. */
async function serveGrpcJs() {
  const grpc = await import('@grpc/grpc-js');
  const server = new grpc.Server({ 'grpc.max_receive_message_length': -1 });
  const live = Buffer.from([8, 1]);
  server.addService(
    {
      ServerLive: {
        path: `${SERVICE}ServerLive`,
        requestStream: false,
        responseStream: false,
        requestSerialize: (bytes) => bytes,
        requestDeserialize: (bytes) => bytes,
        responseSerialize: (bytes) => bytes,
        responseDeserialize: (bytes) => bytes,
      },
    },
    { ServerLive: (_, callback) => callback(null, live) },
  );
  const port = await new Promise((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, bound) =>
      error ? reject(error) : resolve(bound),
    ),
  );
  return { address: `127.0.0.1:${port}`, close: async () => server.forceShutdown() };
}

async function child() {
  const server = await (process.argv[2] === 'grpc-js' ? serveGrpcJs() : serveOurs(process.argv[3]));
  process.send({ address: server.address });
  process.on('message', async (message) => {
    if (message === 'cpu') process.send(process.cpuUsage());
    else {
      await server.close();
      process.disconnect();
    }
  });
}

const ask = async (server, message) => {
  server.send(message);
  return (await once(server, 'message'))[0];
};

function unary(session, path, frame) {
  return new Promise((resolve, reject) => {
    const stream = session.request({
      ':method': 'POST',
      ':path': path,
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    let status;
    stream.on('response', (headers) => {
      status = headers['grpc-status'];
    });
    stream.on('trailers', (headers) => {
      status = headers['grpc-status'];
    });
    stream.on('close', () => resolve(status === '0'));
    stream.on('error', reject);
    stream.resume();
    stream.end(frame);
  });
}

async function measure(server, address, path, frame, concurrency) {
  const sessions = Array.from({ length: CONNECTIONS }, () => connect(`http://${address}`));
  let failures = 0;
  const latencies = [];
  const run = async (untilMs) => {
    latencies.length = 0;
    const one = async (i) => {
      while (systemClock.nowMs() < untilMs) {
        const sentMs = systemClock.nowMs();
        if (!(await unary(sessions[i % CONNECTIONS], path, frame))) failures++;
        latencies.push(systemClock.nowMs() - sentMs);
      }
    };
    await Promise.all(Array.from({ length: concurrency }, (_, i) => one(i)));
  };
  await run(systemClock.nowMs() + WINDOW_MS / 4);
  const before = await ask(server, 'cpu');
  const startMs = systemClock.nowMs();
  await run(startMs + WINDOW_MS);
  const elapsedMs = systemClock.nowMs() - startMs;
  const after = await ask(server, 'cpu');
  for (const session of sessions) session.close();
  latencies.sort((a, b) => a - b);
  return {
    rps: (1000 * latencies.length) / elapsedMs,
    cpuUs: (after.user + after.system - before.user - before.system) / latencies.length,
    p99Ms: latencies[Math.floor(0.99 * latencies.length)],
    failures,
  };
}

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];
const lowest = (values) => Math.min(...values);

async function main() {
  const root = await mkdtemp(join(tmpdir(), 'bonsai-bench-'));
  const bytes = network();
  await mkdir(join(root, 'mlp', '1'), { recursive: true });
  await writeFile(join(root, 'mlp', '1', 'model.onnx'), bytes);
  execFileSync('taskset', ['-acp', '1', String(process.pid)], { stdio: 'ignore' });
  const image = new Uint8Array(new Float32Array(INPUTS).fill(0.5).buffer);
  const request = create(ModelInferRequestSchema, {
    modelName: 'mlp',
    inputs: [{ name: 'image', datatype: 'FP32', shape: [1n, BigInt(INPUTS)] }],
    rawInputContents: [image],
  });
  const frame = frameOf(toBinary(ModelInferRequestSchema, request));
  const empty = frameOf(new Uint8Array(0));

  const servers = {};
  for (const kind of ['ours', 'grpc-js']) {
    const server = fork(new URL(import.meta.url), [kind, root]);
    const [{ address }] = await once(server, 'message');
    execFileSync('taskset', ['-acp', '0', String(server.pid)], { stdio: 'ignore' });
    servers[kind] = { server, address };
  }
  const inference = await inferenceUs(bytes);
  const rows = [
    ['ours', 'ServerLive', empty, 4],
    ['grpc-js', 'ServerLive', empty, 4],
    ['ours', 'ModelInfer', frame, 4],
    ['ours', 'ModelInfer', frame, 16],
  ];
  const results = rows.map(() => []);
  // Alternated, so that a disturbance of the machine meets all alike.
  for (let repeat = 0; repeat < REPEATS; repeat++) {
    for (const [i, [kind, method, message, concurrency]] of rows.entries()) {
      const { server, address } = servers[kind];
      results[i].push(await measure(server, address, SERVICE + method, message, concurrency));
    }
  }
  console.log(`inference alone: ${inference.toFixed(0)} us of CPU`);
  for (const [i, [kind, method, , concurrency]] of rows.entries()) {
    const of = (key) => results[i].map((result) => result[key]);
    console.log(
      `${kind} ${method} c${concurrency}: median ${median(of('rps')).toFixed(0)}/s (best ${Math.max(...of('rps')).toFixed(0)}), CPU ${median(of('cpuUs')).toFixed(0)} us a request (least ${lowest(of('cpuUs')).toFixed(0)}), p99 ${median(of('p99Ms')).toFixed(2)} ms, failures ${of('failures').reduce((a, b) => a + b)}`,
    );
  }
  for (const { server } of Object.values(servers)) {
    server.send('stop');
    await once(server, 'exit');
  }
  await rm(root, { recursive: true, force: true });
}

await (process.argv[2] === undefined ? main() : child());
