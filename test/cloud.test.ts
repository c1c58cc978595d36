import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pino from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '../src/base/clock.ts';
import { seededRandom } from '../src/base/random.ts';
import { float32Tensor } from '../src/base/tensor.ts';
import { GraphBuilder, modelOf } from '../src/graph/build.ts';
import { writeModel } from '../src/graph/onnx/write.ts';
import { makeVariant } from '../src/policy/variants.fixture.ts';
import { digestOf } from '../src/repository/digest.ts';
import { openObjectStore } from '../src/repository/s3/aws-object-store.ts';
import { parseS3Url } from '../src/repository/s3/s3-url.ts';
import { DOUBLE_CREDENTIALS, StoreDouble } from '../src/repository/s3/store-double.fixture.ts';
import { writeTask } from '../src/repository/store.ts';
import { MANIFEST_SCHEMA_VERSION } from '../src/repository/types.ts';
import { reviewOf } from '../src/serve/cloud/cloud-side.ts';
import { type RemoteModel, remoteModel } from '../src/serve/cloud/remote-infer.ts';
import { SampleShipper } from '../src/serve/cloud/sample-shipper.ts';
import { type SampleLine, SampleSpool, type SpoolOptions } from '../src/serve/cloud/sample-spool.ts';
import { opinionDefaults, SecondOpinion } from '../src/serve/cloud/second-opinion.ts';
import { call, start } from '../src/serve/server.fixture.ts';
import type { RunningServer } from '../src/serve/server.ts';

const logger = pino({ level: 'silent' });
const closing: (() => unknown)[] = [];
let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-cloud-'));
});

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
  await rm(folder, { recursive: true, force: true });
});

/** A classifier whose scores are a multiple of its input, so that a request says how sure it will be. */
async function writeClassifier(root: string, factor: number): Promise<string> {
  const b = new GraphBuilder('scaled');
  const x = b.input('x', 'float32', ['N', 2]);
  const scale = b.constant(float32Tensor([1], [factor]));
  b.output(b.op('Mul', [x, scale], {}, { outputs: ['scores'] }), 'float32', ['N', 2]);
  const network = writeModel(modelOf(b.finish()));
  const variant = {
    ...makeVariant({ version: 1, accuracy: 0.9, throughputRps: 100 }),
    digest: digestOf(network),
    sizeBytes: network.byteLength,
  };
  const tensor = { dtype: 'float32', shape: [-1, 2] } as const;
  await writeTask(
    root,
    {
      schemaVersion: MANIFEST_SCHEMA_VERSION,
      task: 'parts',
      inputs: [{ name: 'x', ...tensor }],
      outputs: [{ name: 'scores', ...tensor }],
      classes: ['good', 'bad'],
      variants: [variant],
    },
    new Map([[1, network]]),
  );
  return root;
}

async function startServer(name: string, factor: number, options: Parameters<typeof start>[1] = {}) {
  const server = await start(await writeClassifier(join(folder, name), factor), options);
  closing.push(() => server.close());
  return server;
}

const SURE = [9, 0];
const UNSURE = [0.1, 0];

function ask(server: RunningServer, rows: readonly (readonly number[])[], parameters: object = {}) {
  const inputs = [{ name: 'x', datatype: 'FP32', shape: [rows.length, 2], data: rows.flat() }];
  return call(server, 'POST', '/v2/models/parts/infer', { inputs, parameters });
}

describe('samples of low confidence', () => {
  function openSpool(options: Partial<SpoolOptions> = {}) {
    return SampleSpool.open({
      folder: join(folder, 'spool'),
      limitBytes: 1e6,
      below: 0.6,
      fraction: 1,
      clock: systemClock,
      random: seededRandom(1),
      logger,
      ...options,
    });
  }

  test('are kept with what the network said, those alone', async () => {
    const spool = await openSpool();
    const server = await startServer('local', 1, { review: reviewOf({ spool }) });
    await ask(server, [SURE]);
    await ask(server, [SURE, UNSURE, SURE]);
    await spool.flush();
    const [file, ...more] = await spool.files();
    expect(more).toEqual([]);
    const lines = (await readFile(join(folder, 'spool', file!.name), 'utf8')).trimEnd().split('\n');
    expect(lines).toHaveLength(1);
    const sample = JSON.parse(lines[0]!) as SampleLine;
    expect(sample).toMatchObject({ task: 'parts', version: 1, class: 0, className: 'good' });
    expect(sample.digest).toMatch(/^[0-9a-f]{64}$/);
    expect(Date.parse(sample.time)).toBeGreaterThan(Date.now() - 60_000);
    expect(sample.confidence).toBeCloseTo(1 / (1 + Math.exp(-0.1)), 5);
    const [input] = sample.inputs;
    expect(input).toMatchObject({ name: 'x', datatype: 'FP32', shape: [1, 2] });
    expect(Buffer.from(input!.data, 'base64')).toEqual(Buffer.from(Float32Array.from(UNSURE).buffer));
  });

  test('are drawn by their fraction', async () => {
    const spool = await openSpool({ fraction: 0.1 });
    const server = await startServer('local', 1, { review: reviewOf({ spool }) });
    await ask(
      server,
      Array.from({ length: 1000 }, () => UNSURE),
    );
    await spool.flush();
    // Binomial: 100 expected, standard deviation 9.5.
    expect(spool.counts.kept).toBeGreaterThan(60);
    expect(spool.counts.kept).toBeLessThan(140);
  });

  test('take no more room than they may: the oldest go first, and are counted', async () => {
    const spool = await openSpool({ limitBytes: 1000 });
    const server = await startServer('local', 1, { review: reviewOf({ spool }) });
    for (let i = 0; i < 8; i++) {
      await ask(server, [UNSURE]);
      await spool.flush();
    }
    const { kept, droppedOld, bytes } = spool.counts;
    expect(kept).toBe(8);
    expect(droppedOld).toBeGreaterThan(0);
    expect(bytes).toBeLessThanOrEqual(1000);
    const left = await spool.files();
    expect(left).toHaveLength(8 - droppedOld);
    const again = await openSpool({ limitBytes: 1 });
    expect(await again.files()).toEqual([]);
  });

  test('are shipped to a bucket, after an outage as well, each once', async () => {
    const double = new StoreDouble();
    await double.start();
    const store = openObjectStore(parseS3Url(double.urlOf('samples')), {
      attempts: 1,
      credentials: DOUBLE_CREDENTIALS,
    });
    const spool = await openSpool();
    const shipper = new SampleShipper({ spool, store, logger, intervalMs: 1e8 });
    closing.push(
      () => double.stop(),
      () => store.close(),
      () => shipper.stop(),
    );
    const server = await startServer('local', 1, { review: reviewOf({ spool, shipper }) });
    await double.stop();
    await ask(server, [UNSURE]);
    await spool.flush();
    await ask(server, [UNSURE]);
    await spool.flush();
    await shipper.ship();
    expect(shipper).toMatchObject({ isReachable: false, shipped: 0 });
    expect(await spool.files()).toHaveLength(2);
    await double.start();
    await shipper.ship();
    expect(shipper).toMatchObject({ isReachable: true, shipped: 2 });
    expect(await spool.files()).toEqual([]);
    expect(await readdir(join(folder, 'spool/parts'))).toEqual([]);
    const keys = [...double.objects.keys()];
    expect(keys).toHaveLength(2);
    for (const key of keys) expect(key).toMatch(/^samples\/parts\/[\w.-]+-1\.jsonl$/);
  });
});

describe('a second opinion', () => {
  function opinionOf(remote: RemoteModel, limitMs?: number) {
    const opinion = new SecondOpinion({
      remote,
      below: 0.6,
      clock: systemClock,
      logger,
      limitMsOf: ({ maxLatencyMs }) => maxLatencyMs ?? limitMs,
    });
    closing.push(() => remote.close());
    return opinion;
  }

  test('answers what the local network is not sure of, and says so', async () => {
    // The remote network scales by -50: it is sure of the opposite.
    const remote = await startServer('remote', -50);
    const opinion = opinionOf(remoteModel(`${remote.httpUrl}/v2/models/parts`, 8), 30_000);
    const server = await startServer('local', 1, { review: reviewOf({ opinion }) });
    const sure = await ask(server, [SURE]);
    expect(sure.json.outputs[0].data).toEqual(SURE);
    expect(sure.json.parameters.second_opinion).toBeUndefined();
    const unsure = await ask(server, [UNSURE, UNSURE]);
    expect(unsure.json.parameters.second_opinion).toBe('parts/1');
    expect(unsure.json.outputs[0]).toMatchObject({ name: 'scores', shape: [2, 2] });
    const [first, second] = unsure.json.outputs[0].data;
    expect(first).toBeCloseTo(-5, 4);
    expect(second).toBeCloseTo(0, 4);
    expect(opinion.counts).toMatchObject({ taken: 1, failed: 0, late: 0 });
    expect(opinion.expectedMs).toBeGreaterThan(0);
  });

  test('is not waited for beyond the deadline', async () => {
    const silent = createServer(() => undefined).listen(0, '127.0.0.1');
    await once(silent, 'listening');
    closing.push(() => {
      silent.closeAllConnections();
      silent.close();
    });
    const { port } = silent.address() as AddressInfo;
    const opinion = opinionOf(remoteModel(`http://127.0.0.1:${port}/v2/models/parts`, 8));
    const server = await startServer('local', 1, { review: reviewOf({ opinion }) });
    const late = await ask(server, [UNSURE], { max_latency_ms: 500 });
    expect(late.status).toBe(200);
    expect(late.json.outputs[0].data[0]).toBeCloseTo(0.1, 5);
    expect(opinion.counts.late).toBe(1);
    // It is known now that the other one takes longer than this.
    await ask(server, [UNSURE], { max_latency_ms: 100 });
    expect(opinion.counts).toMatchObject({ late: 1, skipped: 1 });
  });

  test('is done without where the other server is away or talks of something else, and not asked again and again', async () => {
    const remote = await startServer('remote', -50);
    const opinion = opinionOf(remoteModel(`${remote.httpUrl}/v2/models/unknown`, 8), 30_000);
    const server = await startServer('local', 1, { review: reviewOf({ opinion }) });
    for (let i = 0; i < opinionDefaults.failuresToOpen + 3; i++) {
      const { status, json } = await ask(server, [UNSURE]);
      expect(status).toBe(200);
      expect(json.outputs[0].data[0]).toBeCloseTo(0.1, 5);
    }
    const { failed, skipped, taken } = opinion.counts;
    expect(taken).toBe(0);
    expect(failed).toBeGreaterThanOrEqual(opinionDefaults.failuresToOpen);
    expect(failed + skipped).toBe(opinionDefaults.failuresToOpen + 3);
  });

  test('needs the address of a model', () => {
    for (const url of ['nonsense', 'ftp://h/v2/models/x', 'http://h:8000', 'http://h:8000/v2/models/'])
      expect(() => remoteModel(url, 1)).toThrow(/expected http:\/\/HOST:8000\/v2\/models\/NAME/);
  });
});
