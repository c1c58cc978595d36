import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect as connectHttp2 } from 'node:http2';
import { connect as connectTcp } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  create,
  type DescMessage,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from '@bufbuild/protobuf';
import {
  Client,
  compressionAlgorithms,
  credentials,
  Metadata,
  type ServiceError,
  status,
} from '@grpc/grpc-js';
import fc from 'fast-check';
import pino from 'pino';
import { request as httpRequest } from 'undici';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../base/clock.ts';
import type { DType } from '../../base/dtype.ts';
import { ERROR_CODES } from '../../base/errors.ts';
import { float32Tensor } from '../../base/tensor.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { STATUS_BY_CODE as HTTP_STATUS_BY_CODE } from '../rest/errors.ts';
import { type RunningServer, type ServerOptions, startServer } from '../server.ts';
import { encodeStatusMessage, STATUS, STATUS_BY_CODE } from './errors.ts';
import { frameOf } from './framing.ts';
import { HealthCheckRequestSchema, HealthCheckResponseSchema } from './health_pb.ts';
import {
  ModelConfigRequestSchema,
  ModelConfigResponseSchema,
  ModelInferRequestSchema,
  ModelInferResponseSchema,
  ModelMetadataRequestSchema,
  ModelMetadataResponseSchema,
  ModelReadyRequestSchema,
  ModelReadyResponseSchema,
  ModelStatisticsRequestSchema,
  ModelStatisticsResponseSchema,
  ModelStreamInferResponseSchema,
  RepositoryIndexRequestSchema,
  RepositoryIndexResponseSchema,
  RepositoryModelLoadRequestSchema,
  RepositoryModelLoadResponseSchema,
  RepositoryModelUnloadRequestSchema,
  RepositoryModelUnloadResponseSchema,
  ServerLiveRequestSchema,
  ServerLiveResponseSchema,
  ServerMetadataRequestSchema,
  ServerMetadataResponseSchema,
  ServerReadyRequestSchema,
  ServerReadyResponseSchema,
} from './inference_pb.ts';

const SERVICE = '/inference.GRPCInferenceService/';
const MAX_BODY_BYTES = 64 * 1024;
const logger = pino({ level: 'silent' });

/** y = x for any element type. */
function identity(dtype: DType): Uint8Array {
  const b = new GraphBuilder('identity');
  b.output(b.op('Identity', [b.input('x', dtype, ['N'])], {}, { outputs: ['y'] }), dtype, ['N']);
  return writeModel(modelOf(b.finish()));
}

/** scores = 10 · version + sum(x); with steps, much slower. */
function scorer(version: number, steps = 0): Uint8Array {
  const b = new GraphBuilder('scorer');
  const x = b.input('x', 'float32', ['N', 4]);
  let sum = b.op('MatMul', [x, b.constant(float32Tensor([4, 1], [1, 1, 1, 1]))]);
  if (steps > 0) {
    const square = b.constant(float32Tensor([512, 512], new Float32Array(512 * 512).fill(1e-9)));
    let wide = b.op('MatMul', [x, b.constant(float32Tensor([4, 512], new Float32Array(4 * 512)))]);
    for (let i = 0; i < steps; i++) wide = b.op('Relu', [b.op('MatMul', [wide, square])]);
    sum = b.op('Add', [sum, b.op('ReduceMean', [wide], { axes: [1], keepdims: 1 })]);
  }
  const scores = b.op('Add', [sum, b.scalar(10 * version)], {}, { outputs: ['scores'] });
  b.output(scores, 'float32', ['N', 1]);
  return writeModel(modelOf(b.finish()));
}

async function writeNetwork(root: string, name: string, version: number, bytes: Uint8Array): Promise<void> {
  await mkdir(join(root, name, String(version)), { recursive: true });
  await writeFile(join(root, name, String(version), 'model.onnx'), bytes);
}

function start(root: string, options: Partial<ServerOptions> = {}): Promise<RunningServer> {
  return startServer({
    repository: root,
    logger,
    clock: systemClock,
    httpPort: 0,
    grpcPort: 0,
    metricsPort: 0,
    ...options,
  });
}

const connect = (server: RunningServer) =>
  new Client(server.grpcAddress!, credentials.createInsecure(), { 'grpc.max_receive_message_length': -1 });

interface CallExtras {
  readonly metadata?: Record<string, string>;
  readonly deadlineMs?: number;
}

/** One unary call by an independent client. */
function call<I extends DescMessage, O extends DescMessage>(
  client: Client,
  path: string,
  input: I,
  output: O,
  value: MessageInitShape<I>,
  { metadata = {}, deadlineMs = 30_000 }: CallExtras = {},
): Promise<MessageShape<O>> {
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      path,
      (message: MessageShape<I>) => Buffer.from(toBinary(input, message)),
      (bytes: Buffer) => fromBinary(output, bytes),
      create(input, value) as MessageShape<I>,
      metadataOf(metadata),
      { deadline: Date.now() + deadlineMs },
      (error, answer) => (error !== null ? reject(error) : resolve(answer!)),
    );
  });
}

function metadataOf(entries: Record<string, string>): Metadata {
  const metadata = new Metadata();
  for (const [key, value] of Object.entries(entries)) metadata.set(key, value);
  return metadata;
}

type InferInit = MessageInitShape<typeof ModelInferRequestSchema>;

const infer = (client: Client, value: InferInit, extras?: CallExtras) =>
  call(client, `${SERVICE}ModelInfer`, ModelInferRequestSchema, ModelInferResponseSchema, value, extras);

/** Resolves with the error of a call that has to fail. */
async function failure(answer: Promise<unknown>): Promise<ServiceError> {
  return answer.then(
    (value) => {
      throw new Error(`expected a failure, got ${JSON.stringify(value)}`);
    },
    (error: ServiceError) => error,
  );
}

const floats = (...values: number[]) => new Uint8Array(Float32Array.from(values).buffer);
const scored = (extra: object = {}): InferInit => ({
  modelName: 'digits',
  inputs: [{ name: 'x', datatype: 'FP32', shape: [1n, 4n] }],
  rawInputContents: [floats(1, 2, 3, 4)],
  ...extra,
});
const scoreOf = (answer: { rawOutputContents: Uint8Array[] }) =>
  Buffer.from(answer.rawOutputContents[0]!).readFloatLE();

describe('the protocol over gRPC', () => {
  const echoed = ['bool', 'int8', 'int64', 'uint64', 'float16', 'float64', 'string'] as const;
  let root: string;
  let server: RunningServer;
  let client: Client;

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'bonsai-grpc-'));
    await writeNetwork(root, 'digits', 1, scorer(1));
    await writeNetwork(root, 'digits', 2, scorer(2));
    await writeNetwork(root, 'slow', 1, scorer(1, 400));
    for (const dtype of echoed) await writeNetwork(root, `echo-${dtype}`, 1, identity(dtype));
    server = await start(root, { limits: { maxBodyBytes: MAX_BODY_BYTES, maxQueueWaitMs: 60_000 } });
    client = connect(server);
  });
  afterAll(async () => {
    client.close();
    await server.close();
    await rm(root, { recursive: true, force: true });
  });

  const get = <I extends DescMessage, O extends DescMessage>(
    method: string,
    input: I,
    output: O,
    value: MessageInitShape<I>,
  ) => call(client, SERVICE + method, input, output, value);
  const ready = (name: string, version = '') =>
    get('ModelReady', ModelReadyRequestSchema, ModelReadyResponseSchema, { name, version });

  it('answers for the server', async () => {
    expect((await get('ServerLive', ServerLiveRequestSchema, ServerLiveResponseSchema, {})).live).toBe(true);
    expect((await get('ServerReady', ServerReadyRequestSchema, ServerReadyResponseSchema, {})).ready).toBe(
      true,
    );
    const metadata = await get(
      'ServerMetadata',
      ServerMetadataRequestSchema,
      ServerMetadataResponseSchema,
      {},
    );
    const rest = (await (await httpRequest(`${server.httpUrl}/v2`)).body.json()) as Record<string, unknown>;
    expect({ name: metadata.name, version: metadata.version, extensions: metadata.extensions }).toEqual({
      name: rest.name,
      version: rest.version,
      extensions: rest.extensions,
    });
  });

  it('tells of models what REST tells', async () => {
    const url = `${server.httpUrl}/v2/models/digits`;
    const metadata = await get('ModelMetadata', ModelMetadataRequestSchema, ModelMetadataResponseSchema, {
      name: 'digits',
    });
    expect({
      name: metadata.name,
      versions: metadata.versions,
      platform: metadata.platform,
      inputs: metadata.inputs.map(({ name, datatype, shape }) => ({
        name,
        datatype,
        shape: shape.map(Number),
      })),
      outputs: metadata.outputs.map(({ name, datatype, shape }) => ({
        name,
        datatype,
        shape: shape.map(Number),
      })),
    }).toEqual(await (await httpRequest(url)).body.json());

    const { config } = await get('ModelConfig', ModelConfigRequestSchema, ModelConfigResponseSchema, {
      name: 'digits',
    });
    expect(config?.maxBatchSize).toBe(0);
    expect(config?.input.map(({ name, dataType, dims }) => [name, dataType, dims])).toEqual([
      ['x', 11, [-1n, 4n]],
    ]);
    expect(config?.instanceGroup[0]?.kind).toBe(2);
    expect(config?.versionPolicy?.policyChoice.case).toBe('specific');
  });

  it('knows which models are ready', async () => {
    expect((await ready('digits')).ready).toBe(true);
    expect((await ready('digits', '2')).ready).toBe(true);
    expect((await ready('digits', '1')).ready).toBe(false);
    expect((await failure(ready('nobody'))).code).toBe(status.NOT_FOUND);
    expect((await failure(ready('digits', 'abc'))).code).toBe(status.INVALID_ARGUMENT);
  });

  it('says whose answer it is where a remote server gave it', async () => {
    const reviewed = await start(root, {
      review: (_, answer) => ({ ...answer, accuracy: undefined, secondOpinion: 'large/7' }),
    });
    const own = connect(reviewed);
    try {
      const { parameters } = await infer(own, scored());
      expect(parameters.second_opinion?.parameterChoice).toEqual({ case: 'stringParam', value: 'large/7' });
      expect(parameters.accuracy).toBeUndefined();
    } finally {
      own.close();
      await reviewed.close();
    }
  });

  it('infers from raw and from typed contents alike, and answers raw', async () => {
    const raw = await infer(client, scored({ id: 'r1' }));
    expect(raw.id).toBe('r1');
    expect(raw.modelName).toBe('digits');
    expect(raw.modelVersion).toBe('2');
    expect(raw.outputs.map(({ name, datatype, shape }) => [name, datatype, shape])).toEqual([
      ['scores', 'FP32', [1n, 1n]],
    ]);
    expect(raw.outputs[0]?.contents).toBeUndefined();
    expect(scoreOf(raw)).toBe(30);
    expect(raw.parameters.queue_ms?.parameterChoice.case).toBe('doubleParam');
    const typed = await infer(client, {
      modelName: 'digits',
      inputs: [{ name: 'x', datatype: 'FP32', shape: [1n, 4n], contents: { fp32Contents: [1, 2, 3, 4] } }],
    });
    expect(typed.rawOutputContents).toEqual(raw.rawOutputContents);
    expect(typed.id).toBe('');
  });

  it.each([
    ['bool', 'BOOL', [1, 0, 1]],
    ['int8', 'INT8', [0x80, 0x7f]],
    ['int64', 'INT64', [1, 0, 0, 0, 0, 0, 32, 0]],
    ['uint64', 'UINT64', Array(8).fill(255)],
    ['float16', 'FP16', [0, 60, 0, 124]],
    ['float64', 'FP64', [0, 0, 0, 0, 0, 0, 248, 127]],
    ['string', 'BYTES', [3, 0, 0, 0, 195, 182, 0, 0, 0, 0, 0]],
  ] as const)('carries %s byte for byte', async (dtype, datatype, values) => {
    const bytes = Uint8Array.from(values);
    const counts = { bool: 3, int8: 2, int64: 1, uint64: 1, float16: 2, float64: 1, string: 2 };
    const answer = await infer(client, {
      modelName: `echo-${dtype}`,
      inputs: [{ name: 'x', datatype, shape: [BigInt(counts[dtype])] }],
      rawInputContents: [bytes],
    });
    expect([...answer.rawOutputContents[0]!]).toEqual([...bytes]);
  });

  it('refuses strings that are not UTF-8 where they would come back changed', async () => {
    await expect(
      infer(client, {
        modelName: 'echo-string',
        inputs: [{ name: 'x', datatype: 'BYTES', shape: [1n] }],
        rawInputContents: [Uint8Array.from([1, 0, 0, 0, 255])],
      }),
    ).rejects.toMatchObject({ code: status.INVALID_ARGUMENT });
  });

  it('takes tensors without elements', async () => {
    const answer = await infer(client, {
      modelName: 'echo-int64',
      inputs: [{ name: 'x', datatype: 'INT64', shape: [0n] }],
      rawInputContents: [new Uint8Array(0)],
    });
    expect(answer.rawOutputContents[0]).toHaveLength(0);
  });

  const input = { name: 'x', datatype: 'FP32', shape: [1n, 4n] };
  it.each<[string, InferInit, number, RegExp]>([
    [
      'an unknown model',
      scored({ modelName: 'nobody' }),
      status.NOT_FOUND,
      /unknown model: 'nobody' is not found/,
    ],
    ['an unknown version', scored({ modelVersion: '9' }), status.NOT_FOUND, /version 9/],
    ['a version that is not loaded', scored({ modelVersion: '1' }), status.UNAVAILABLE, /not at ready state/],
    ['no version', scored({ modelVersion: '1.0' }), status.INVALID_ARGUMENT, /'1.0' is not a model version/],
    ['an unknown input', scored({ inputs: [{ ...input, name: 'y' }] }), status.INVALID_ARGUMENT, /input 'y'/],
    ['a missing input', scored({ inputs: [], rawInputContents: [] }), status.INVALID_ARGUMENT, /is missing/],
    [
      'another datatype',
      scored({ inputs: [{ ...input, datatype: 'INT32' }] }),
      status.INVALID_ARGUMENT,
      /is INT32/,
    ],
    [
      'an unknown datatype',
      scored({ inputs: [{ ...input, datatype: 'FP8' }] }),
      status.INVALID_ARGUMENT,
      /'FP8'/,
    ],
    ['too few bytes', scored({ rawInputContents: [floats(1)] }), status.INVALID_ARGUMENT, /got 4 bytes/],
    [
      'a surplus buffer',
      scored({ rawInputContents: [floats(1, 2, 3, 4), floats(1)] }),
      status.INVALID_ARGUMENT,
      /2 buffers for 1 inputs/,
    ],
    [
      'raw and typed at once',
      scored({ inputs: [{ ...input, contents: { fp32Contents: [1, 2, 3, 4] } }] }),
      status.INVALID_ARGUMENT,
      /together with raw_input_contents/,
    ],
    ['no data', scored({ rawInputContents: [] }), status.INVALID_ARGUMENT, /unable to find data/],
    ['an unknown output', scored({ outputs: [{ name: 'z' }] }), status.INVALID_ARGUMENT, /output 'z'/],
    [
      'shared memory',
      scored({
        inputs: [
          {
            ...input,
            parameters: { shared_memory_region: { parameterChoice: { case: 'stringParam', value: 'r' } } },
          },
        ],
      }),
      status.UNIMPLEMENTED,
      /shared memory is not offered/,
    ],
    [
      'a reserved parameter',
      scored({ parameters: { triton_x: { parameterChoice: { case: 'boolParam', value: true } } } }),
      status.INVALID_ARGUMENT,
      /reserved/,
    ],
    [
      'a wrong parameter',
      scored({ parameters: { timeout: { parameterChoice: { case: 'stringParam', value: 'soon' } } } }),
      status.INVALID_ARGUMENT,
      /'timeout' must be a number/,
    ],
  ])('refuses %s', async (_, value, code, message) => {
    const error = await failure(infer(client, value));
    expect(error.details).toMatch(message);
    expect(error.code).toBe(code);
  });

  it('answers methods that are not offered with UNIMPLEMENTED and a reason', async () => {
    for (const [method, reason] of [
      ['SystemSharedMemoryStatus', /shared memory/],
      ['CudaSharedMemoryRegister', /shared memory/],
      ['TraceSetting', /trace/],
      ['LogSettings', /logging/],
      ['Anything', /unknown method/],
    ] as const) {
      const error = await failure(get(method, ServerLiveRequestSchema, ServerLiveResponseSchema, {}));
      expect(error.code).toBe(status.UNIMPLEMENTED);
      expect(error.details).toMatch(reason);
    }
  });

  it('counts in its statistics what it has answered', async () => {
    const statistics = (name: string) =>
      get('ModelStatistics', ModelStatisticsRequestSchema, ModelStatisticsResponseSchema, { name });
    const before = (await statistics('echo-bool')).modelStats[0]!.inferenceStats!.success!.count;
    await infer(client, {
      modelName: 'echo-bool',
      inputs: [{ name: 'x', datatype: 'BOOL', shape: [1n] }],
      rawInputContents: [Uint8Array.of(1)],
    });
    const after = (await statistics('echo-bool')).modelStats[0]!;
    expect(after.inferenceStats!.success!.count).toBe(before + 1n);
    expect(after.executionCount).toBeGreaterThan(0n);
    expect((await statistics('')).modelStats.length).toBeGreaterThan(echoed.length);
    // Not NOT_FOUND, as Triton's clients know it.
    expect((await failure(statistics('nobody'))).code).toBe(status.INVALID_ARGUMENT);
  });

  it('loads, switches and unloads models', async () => {
    const load = (modelName: string, parameters = {}) =>
      get('RepositoryModelLoad', RepositoryModelLoadRequestSchema, RepositoryModelLoadResponseSchema, {
        modelName,
        parameters,
      });
    const only = (version: number) => ({
      config: {
        parameterChoice: {
          case: 'stringParam' as const,
          value: JSON.stringify({ version_policy: { specific: { versions: [version] } } }),
        },
      },
    });
    await load('digits', only(1));
    expect(scoreOf(await infer(client, scored()))).toBe(20);
    await load('digits', only(2));
    expect(scoreOf(await infer(client, scored()))).toBe(30);
    expect((await failure(load('nobody'))).code).toBe(status.INTERNAL);
    expect((await failure(load('digits', only(7)))).code).toBe(status.INVALID_ARGUMENT);
    const asBytes = {
      config: { parameterChoice: { case: 'bytesParam' as const, value: Buffer.from('{}') } },
    };
    expect((await failure(load('digits', asBytes))).details).toMatch(/must be string_param/);

    await get(
      'RepositoryModelUnload',
      RepositoryModelUnloadRequestSchema,
      RepositoryModelUnloadResponseSchema,
      {
        modelName: 'echo-int8',
      },
    );
    const index = (ready: boolean) =>
      get('RepositoryIndex', RepositoryIndexRequestSchema, RepositoryIndexResponseSchema, { ready });
    // It drains first.
    await expect
      .poll(async () => (await index(false)).models.find(({ name }) => name === 'echo-int8'))
      .toMatchObject({ version: '1', state: 'UNAVAILABLE', reason: 'unloaded' });
    expect((await index(true)).models.map(({ name }) => name)).not.toContain('echo-int8');
    await load('echo-int8');
  });

  it('loads a network that the request brings, as bytes', async () => {
    const bring = (value: Uint8Array) => ({
      config: { parameterChoice: { case: 'stringParam' as const, value: '{"backend":"onnxruntime"}' } },
      'file:4/model.onnx': { parameterChoice: { case: 'bytesParam' as const, value } },
    });
    const load = (value: Uint8Array) =>
      get('RepositoryModelLoad', RepositoryModelLoadRequestSchema, RepositoryModelLoadResponseSchema, {
        modelName: 'brought',
        parameters: bring(value),
      });
    await load(scorer(4));
    expect((await infer(client, scored({ modelName: 'brought' }))).modelVersion).toBe('4');
    expect(scoreOf(await infer(client, scored({ modelName: 'brought' })))).toBe(50);
    expect((await failure(load(Buffer.from('no network')))).code).toBe(status.INVALID_ARGUMENT);
    expect(scoreOf(await infer(client, scored({ modelName: 'brought' })))).toBe(50);
  });

  it('streams: each request is answered in order, and one that fails does not end the stream', async () => {
    const stream = openStream(client);
    const responses = collect(stream);
    for (let i = 0; i < 100; i++) stream.write(create(ModelInferRequestSchema, scored({ id: String(i) })));
    stream.write(create(ModelInferRequestSchema, scored({ id: 'bad', modelName: 'nobody' })));
    stream.write(create(ModelInferRequestSchema, scored({ id: 'last' })));
    stream.end();
    const { messages, status: end } = await responses;
    expect(end.code).toBe(status.OK);
    expect(messages.map(({ inferResponse }) => inferResponse?.id)).toEqual([
      ...Array.from({ length: 100 }, (_, i) => String(i)),
      'bad',
      'last',
    ]);
    expect(messages[100]?.errorMessage).toMatch(/unknown model/);
    expect(scoreOf(messages[101]!.inferResponse!)).toBe(30);
  });

  it('ends a stream at an error if the client asks for it', async () => {
    const stream = openStream(client, { triton_grpc_error: 'true' });
    const responses = collect(stream);
    stream.write(create(ModelInferRequestSchema, scored()));
    stream.write(create(ModelInferRequestSchema, scored({ modelName: 'nobody' })));
    const { messages, status: end } = await responses;
    expect(messages).toHaveLength(1);
    expect(end.code).toBe(status.NOT_FOUND);
  });

  it('serves many calls at a time on one connection', async () => {
    const answers = await Promise.all(
      Array.from({ length: 300 }, (_, i) => infer(client, scored({ id: `n${i}` }))),
    );
    expect(answers.map(({ id }) => id)).toEqual(answers.map((_, i) => `n${i}`));
  });

  it.each([
    ['gzip', compressionAlgorithms.gzip],
    ['deflate', compressionAlgorithms.deflate],
  ])('understands %s', async (_, algorithm) => {
    const compressing = new Client(server.grpcAddress!, credentials.createInsecure(), {
      'grpc.default_compression_algorithm': algorithm,
    });
    const bytes = new Uint8Array(4000).fill(1);
    const answer = await infer(compressing, {
      modelName: 'echo-bool',
      inputs: [{ name: 'x', datatype: 'BOOL', shape: [4000n] }],
      rawInputContents: [bytes],
    });
    expect([...answer.rawOutputContents[0]!]).toEqual([...bytes]);
    compressing.close();
  });

  it('refuses a message over its limit, also one that only unfolds beyond it', async () => {
    const big = {
      modelName: 'echo-bool',
      inputs: [{ name: 'x', datatype: 'BOOL', shape: [100_000n] }],
      rawInputContents: [new Uint8Array(100_000)],
    };
    const error = await failure(infer(client, big));
    expect(error.code).toBe(status.RESOURCE_EXHAUSTED);
    expect(error.details).toMatch(/exceeds the maximum of 65536 bytes/);
    const compressing = new Client(server.grpcAddress!, credentials.createInsecure(), {
      'grpc.default_compression_algorithm': compressionAlgorithms.gzip,
    });
    expect((await failure(infer(compressing, big))).code).toBe(status.RESOURCE_EXHAUSTED);
    compressing.close();
  });

  it('drops what waits when its deadline has passed or its client has gone', async () => {
    const slow = (): InferInit => ({
      modelName: 'slow',
      inputs: [{ name: 'x', datatype: 'FP32', shape: [64n, 4n] }],
      rawInputContents: [new Uint8Array(64 * 16)],
    });
    const served = server.models.get('slow');
    const executions = () => served.current!.statistics.executionCount;
    await infer(client, slow());
    const before = executions();
    const running = Array.from({ length: 3 }, () => infer(client, slow()));
    const late = await Promise.all(
      Array.from({ length: 5 }, () => failure(infer(client, slow(), { deadlineMs: 1 }))),
    );
    for (const { code } of late) expect([status.DEADLINE_EXCEEDED, status.UNAVAILABLE]).toContain(code);
    const gone = client.makeUnaryRequest(
      `${SERVICE}ModelInfer`,
      (message: Buffer) => message,
      (bytes: Buffer) => bytes,
      Buffer.from(toBinary(ModelInferRequestSchema, create(ModelInferRequestSchema, slow()))),
      () => undefined,
    );
    setImmediate(() => gone.cancel());
    await Promise.all(running);
    await infer(client, slow());
    // The three, and the last; of the others at most one that had begun when its client went.
    expect(executions() - before).toBeLessThanOrEqual(5);
    expect(server.plane.queued()).toBe(0);
  });

  it('speaks the health protocol', async () => {
    const check = (service: string) =>
      call(client, '/grpc.health.v1.Health/Check', HealthCheckRequestSchema, HealthCheckResponseSchema, {
        service,
      });
    expect((await check('')).status).toBe(1);
    expect((await check('inference.GRPCInferenceService')).status).toBe(1);
    expect((await failure(check('nobody'))).code).toBe(status.NOT_FOUND);
    const watch = watchHealth(client, 'nobody');
    expect((await once(watch, 'data'))[0].status).toBe(3);
    watch.on('error', () => undefined).cancel();
  });

  it('gives every answer a status, whatever comes', async () => {
    const session = connectHttp2(`http://${server.grpcAddress}`);
    await once(session, 'connect');
    const valid = toBinary(ModelInferRequestSchema, create(ModelInferRequestSchema, scored()));
    const body = fc.oneof(
      fc.uint8Array({ maxLength: 200 }),
      fc.uint8Array({ maxLength: 200 }).map((bytes) => frameOf(bytes)),
      fc
        .array(fc.tuple(fc.nat(valid.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 })
        .map((changes) => {
          const damaged = Uint8Array.from(valid);
          for (const [position, byte] of changes) damaged[position] = byte;
          return frameOf(damaged);
        }),
      fc.nat(valid.length).map((length) => frameOf(valid).subarray(0, length)),
      fc.constant(Buffer.concat([frameOf(valid), frameOf(valid)])),
    );
    const method = fc.constantFrom(
      'ModelInfer',
      'ModelStreamInfer',
      'ModelConfig',
      'ModelStatistics',
      'RepositoryIndex',
      'ModelMetadata',
    );
    const headers = fc.record(
      {
        'grpc-timeout': fc.constantFrom('10S', '', 'x', '999999999S', '-1m'),
        'grpc-encoding': fc.constantFrom('identity', 'gzip', 'deflate', 'snappy', 'br'),
      },
      { requiredKeys: [] },
    );
    await fc.assert(
      fc.asyncProperty(method, body, headers, async (name, bytes, extra) => {
        const stream = session.request({
          ':method': 'POST',
          ':path': SERVICE + name,
          'content-type': 'application/grpc',
          ...extra,
        });
        let answered: unknown;
        stream.on('response', (head) => {
          answered ??= head['grpc-status'];
        });
        stream.on('trailers', (head) => {
          answered ??= head['grpc-status'];
        });
        stream.on('error', () => undefined);
        stream.resume();
        stream.end(bytes);
        await once(stream, 'close');
        expect(Number(answered)).toBeGreaterThanOrEqual(0);
        expect(Number(answered)).not.toBe(status.INTERNAL);
      }),
      { seed: 11, numRuns: 400 },
    );
    session.close();
    expect(scoreOf(await infer(client, scored()))).toBe(30);
  });

  it('tells HTTP from gRPC, and survives what is neither', async () => {
    const session = connectHttp2(`http://${server.grpcAddress}`);
    const statusOfRequest = async (headers: Record<string, string>) => {
      const stream = session
        .request(headers)
        .on('error', () => undefined)
        .resume();
      const [head] = await once(stream, 'response');
      return head[':status'];
    };
    expect(await statusOfRequest({ ':method': 'GET', ':path': '/' })).toBe(405);
    expect(
      await statusOfRequest({
        ':method': 'POST',
        ':path': `${SERVICE}ServerLive`,
        'content-type': 'application/json',
      }),
    ).toBe(415);
    session.close();
    const [host, port] = server.grpcAddress!.split(':');
    const socket = connectTcp(Number(port), host);
    socket.on('error', () => undefined);
    socket.end('GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n');
    socket.resume();
    await once(socket, 'close');
    expect((await ready('digits')).ready).toBe(true);
  });
});

describe('a gRPC server that stops', () => {
  let root: string;
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'bonsai-grpc-stop-'));
    await writeNetwork(root, 'digits', 2, scorer(2));
  });
  afterAll(() => rm(root, { recursive: true, force: true }));

  it('answers what it has taken in, tells watchers, ends streams and lets go of its port', async () => {
    const server = await start(root);
    const client = connect(server);
    const watch = watchHealth(client, '');
    const states: number[] = [];
    const watched = new Promise<number>((resolve) => {
      watch.on('data', (message) => states.push(message.status));
      watch.on('error', (error: ServiceError) => resolve(error.code));
    });
    await once(watch, 'data');
    const stream = openStream(client);
    const streamed = collect(stream);
    stream.write(create(ModelInferRequestSchema, scored({ id: 'held' })));
    const answers = Promise.all(Array.from({ length: 20 }, () => infer(client, scored())));
    await once(stream, 'data');
    const closed = server.close();
    expect((await answers).map(scoreOf)).toEqual(Array(20).fill(30));
    expect((await streamed).status.code).toBe(status.UNAVAILABLE);
    expect(await watched).toBe(status.UNAVAILABLE);
    expect(states).toEqual([1, 2]);
    await closed;
    client.close();
    const again = await start(root, { grpcPort: server.ports.grpc! });
    await again.close();
  });

  it('loads and unloads only for the administrator where there is one', async () => {
    const server = await start(root, { adminToken: 'secret' });
    const client = connect(server);
    const unload = (metadata?: Record<string, string>) =>
      call(
        client,
        `${SERVICE}RepositoryModelUnload`,
        RepositoryModelUnloadRequestSchema,
        RepositoryModelUnloadResponseSchema,
        { modelName: 'digits' },
        { metadata },
      );
    expect((await failure(unload())).code).toBe(status.UNAUTHENTICATED);
    expect((await failure(unload({ authorization: 'Bearer wrong' }))).code).toBe(status.UNAUTHENTICATED);
    expect(scoreOf(await infer(client, scored()))).toBe(30);
    await unload({ authorization: 'Bearer secret' });
    expect((await failure(infer(client, scored()))).code).toBe(status.NOT_FOUND);
    client.close();
    await server.close();
  });

  it('keeps neither answers that nobody takes nor messages that do not end beyond its limits', async () => {
    const server = await start(root, {
      limits: { maxInFlightBytes: 2000, headersTimeoutMs: 200, requestTimeoutMs: 200 },
    });
    const bytes = frameOf(
      toBinary(ModelInferRequestSchema, create(ModelInferRequestSchema, scored({ id: 'x'.repeat(1500) }))),
    );
    const session = connectHttp2(`http://${server.grpcAddress}`, { settings: { initialWindowSize: 0 } });
    const send = (body: Uint8Array) => {
      const stream = session.request({
        ':method': 'POST',
        ':path': `${SERVICE}ModelInfer`,
        'content-type': 'application/grpc',
      });
      stream.on('error', () => undefined).write(body);
      return stream;
    };
    const untaken = send(bytes);
    untaken.end();
    await once(untaken, 'response');
    expect(server.plane.bytes.used).toBeGreaterThan(1500);
    const refused = send(bytes);
    refused.end();
    const [head] = await once(refused, 'response');
    expect(head['grpc-status']).toBe(String(status.UNAVAILABLE));
    // Who is due for too long is given up: the one that does not take, and one that does not send.
    await once(untaken, 'close');
    expect(server.plane.bytes.used).toBe(0);
    const halfSent = send(bytes.subarray(0, 100));
    const [late] = await once(halfSent, 'response');
    expect(late['grpc-status']).toBe(String(status.DEADLINE_EXCEEDED));
    expect(server.plane.bytes.used).toBe(0);
    session.close();
    await server.close();
  });

  it('offers no gRPC where it is not asked to', async () => {
    const server = await start(root, { grpcPort: undefined });
    expect(server.grpcAddress).toBeUndefined();
    await server.close();
  });
});

describe('statuses', () => {
  it('agree with those of HTTP', () => {
    const expected: Record<number, readonly number[]> = {
      400: [STATUS.INVALID_ARGUMENT, STATUS.CANCELLED],
      404: [STATUS.NOT_FOUND],
      413: [STATUS.RESOURCE_EXHAUSTED],
      500: [STATUS.INTERNAL],
      501: [STATUS.UNIMPLEMENTED],
      503: [STATUS.UNAVAILABLE],
    };
    for (const code of ERROR_CODES)
      expect(expected[HTTP_STATUS_BY_CODE[code]], code).toContain(STATUS_BY_CODE[code]);
  });

  it('carry messages of any text', () => {
    expect(encodeStatusMessage('100% of "ö"\n')).toBe('100%25 of "%C3%B6"%0A');
  });
});

function openStream(client: Client, metadata: Record<string, string> = {}) {
  return client.makeBidiStreamRequest(
    `${SERVICE}ModelStreamInfer`,
    (message: MessageShape<typeof ModelInferRequestSchema>) =>
      Buffer.from(toBinary(ModelInferRequestSchema, message)),
    (bytes: Buffer) => fromBinary(ModelStreamInferResponseSchema, bytes),
    metadataOf(metadata),
  );
}

interface Collected {
  readonly messages: MessageShape<typeof ModelStreamInferResponseSchema>[];
  readonly status: { readonly code: number };
}

function collect(stream: ReturnType<typeof openStream>): Promise<Collected> {
  const messages: Collected['messages'] = [];
  stream.on('data', (message) => messages.push(message));
  stream.on('error', () => undefined);
  return new Promise((resolve) => stream.on('status', (end) => resolve({ messages, status: end })));
}

function watchHealth(client: Client, service: string) {
  return client.makeServerStreamRequest(
    '/grpc.health.v1.Health/Watch',
    (message: MessageShape<typeof HealthCheckRequestSchema>) =>
      Buffer.from(toBinary(HealthCheckRequestSchema, message)),
    (bytes: Buffer) => fromBinary(HealthCheckResponseSchema, bytes),
    create(HealthCheckRequestSchema, { service }),
  );
}
