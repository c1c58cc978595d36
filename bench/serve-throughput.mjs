/**
 * How much of ONNX Runtime's own speed is left through HTTP, and how late does a switch under load make the latest answer?
 * Build first, then: node bench/serve-throughput.mjs   (Linux, two CPUs: the server on 0, the clients on 1)
 */
import { execFileSync, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pino from 'pino';
import { Agent, request } from 'undici';
import { systemClock } from '../dist/base/clock.js';
import { seededRandom } from '../dist/base/random.js';
import { float32Tensor } from '../dist/base/tensor.js';
import { Session } from '../dist/engine/session.js';
import { GraphBuilder, modelOf } from '../dist/graph/build.js';
import { writeModel } from '../dist/graph/onnx/write.js';
import { digestOf } from '../dist/repository/digest.js';
import { writeTask } from '../dist/repository/store.js';
import { startServer } from '../dist/serve/server.js';

const SIZE = 28;
const WINDOW_MS = 4000;
const REPEATS = 3;

/** A chain of 3 x 3 convolutions of the given width: some 1 ms at 16, 8 ms at 56 on one core. */
function network(width) {
  const random = seededRandom(1);
  const b = new GraphBuilder('chain');
  let x = b.input('image', 'float32', ['N', 1, SIZE, SIZE]);
  let channels = 1;
  for (let layer = 0; layer < 6; layer++) {
    const weights = Float32Array.from({ length: width * channels * 9 }, () => random.normal() * 0.1);
    const w = b.constant(float32Tensor([width, channels, 3, 3], weights));
    x = b.op('Relu', [b.op('Conv', [x, w], { kernel_shape: [3, 3], pads: [1, 1, 1, 1] })]);
    channels = width;
  }
  const pooled = b.op('Flatten', [b.op('GlobalAveragePool', [x])], { axis: 1 });
  b.output(b.op('Identity', [pooled], {}, { outputs: ['logits'] }), 'float32', ['N', width]);
  return writeModel(modelOf(b.finish()));
}

const image = new Float32Array(SIZE * SIZE).fill(0.5);
const pinTo = (cpu) =>
  execFileSync('taskset', ['-acp', String(cpu), String(process.pid)], { stdio: 'ignore' });

async function raw(bytes) {
  const session = await Session.create(bytes);
  const feeds = { image: float32Tensor([1, 1, SIZE, SIZE], image) };
  for (let i = 0; i < 20; i++) await session.run(feeds);
  const startMs = systemClock.nowMs();
  let count = 0;
  while (systemClock.nowMs() - startMs < WINDOW_MS / 2) {
    await session.run(feeds);
    count++;
  }
  const rps = (1000 * count) / (systemClock.nowMs() - startMs);
  await session.release();
  return rps;
}

function post(url, agent) {
  const head = Buffer.from(
    JSON.stringify({
      inputs: [
        {
          name: 'image',
          datatype: 'FP32',
          shape: [1, 1, SIZE, SIZE],
          parameters: { binary_data_size: image.byteLength },
        },
      ],
      parameters: { binary_data_output: true },
    }),
  );
  const body = Buffer.concat([head, new Uint8Array(image.buffer)]);
  const headers = { 'inference-header-content-length': String(head.byteLength) };
  return async () => {
    const response = await request(`${url}/v2/models/chain/infer`, {
      method: 'POST',
      body,
      headers,
      dispatcher: agent,
    });
    await response.body.arrayBuffer();
    return response.statusCode;
  };
}

async function closedLoop(send, concurrency, during = async () => {}) {
  const startMs = systemClock.nowMs();
  const latencies = [];
  let failures = 0;
  const client = async () => {
    while (systemClock.nowMs() - startMs < WINDOW_MS) {
      const sentMs = systemClock.nowMs();
      if ((await send()) !== 200) failures++;
      latencies.push(systemClock.nowMs() - sentMs);
    }
  };
  const clients = Promise.all(Array.from({ length: concurrency }, client));
  await during();
  await clients;
  latencies.sort((a, b) => a - b);
  const rps = (1000 * latencies.length) / (systemClock.nowMs() - startMs);
  return {
    rps,
    p50: latencies[latencies.length >> 1],
    p99: latencies[Math.floor(latencies.length * 0.99)],
    max: latencies.at(-1),
    failures,
  };
}

if (process.argv[2] === 'server') {
  const server = await startServer({
    repository: process.argv[3],
    logger: pino({ level: 'warn' }),
    clock: systemClock,
    httpPort: 0,
    metricsPort: 0,
    cpus: [0],
  });
  process.send(server.httpUrl);
  process.once('message', async () => {
    await server.close();
    process.disconnect();
  });
} else {
  const root = await mkdtemp(join(tmpdir(), 'bonsai-bench-'));
  const models = new Map([
    [1, network(56)],
    [2, network(16)],
  ]);
  const variants = [...models].map(([version, bytes]) => ({
    version,
    digest: digestOf(bytes),
    sizeBytes: bytes.byteLength,
    accuracy: { test: 1 - version / 10, testCount: 1 },
    macs: 10 - version,
    parameters: 1,
    lineage: {},
    profiles: {},
  }));
  await writeTask(
    root,
    {
      schemaVersion: 1,
      task: 'chain',
      variants,
      inputs: [{ name: 'image', dtype: 'float32', shape: [-1, 1, SIZE, SIZE] }],
      outputs: [{ name: 'logits', dtype: 'float32', shape: [-1, -1] }],
    },
    models,
  );
  const child = fork(new URL(import.meta.url), ['server', root]);
  const [url] = await once(child, 'message');
  const agent = new Agent({ connections: 32 });
  const send = post(url, agent);
  const switchTo = async (version) => {
    const config = JSON.stringify({ version_policy: { specific: { versions: [version] } } });
    const startMs = systemClock.nowMs();
    const response = await request(`${url}/v2/repository/models/chain/load`, {
      method: 'POST',
      body: JSON.stringify({ parameters: { config } }),
    });
    await response.body.dump();
    return systemClock.nowMs() - startMs;
  };
  for (const version of [1, 2]) {
    await switchTo(version);
    for (let repeat = 0; repeat < REPEATS; repeat++) {
      pinTo(0);
      const alone = await raw(models.get(version));
      pinTo(1);
      const served = await closedLoop(send, 4);
      console.log(
        `version ${version}: raw ${alone.toFixed(0)}/s, http c4 ${served.rps.toFixed(0)}/s, ratio ${(served.rps / alone).toFixed(2)}, p99 ${served.p99.toFixed(1)} ms, failures ${served.failures}`,
      );
    }
  }
  const times = [];
  const switching = await closedLoop(send, 4, async () => {
    for (const version of [1, 2, 1, 2]) times.push(await switchTo(version));
  });
  console.log(
    `switching, saturated: loads ${times.map((ms) => ms.toFixed(0)).join(', ')} ms; p50 ${switching.p50.toFixed(1)}, p99 ${switching.p99.toFixed(1)}, max ${switching.max.toFixed(1)} ms; failures ${switching.failures}`,
  );
  child.send('stop');
  await once(child, 'exit');
  await agent.close();
  await rm(root, { recursive: true, force: true });
}
