import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
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
import { Client, credentials, status } from '@grpc/grpc-js';
import pino from 'pino';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../base/clock.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { MEMORY_PER_FILE_BYTE } from '../model-mesh.ts';
import { type RunningServer, type ServerOptions, startServer } from '../server.ts';
import { ModelInferRequestSchema, ModelInferResponseSchema } from './inference_pb.ts';
import * as pb from './model-runtime_pb.ts';

/** y = x + n */
function adder(n: number): Uint8Array {
  const b = new GraphBuilder('adder');
  const sum = b.op('Add', [b.input('x', 'float32', ['N']), b.scalar(n)], {}, { outputs: ['y'] });
  b.output(sum, 'float32', ['N']);
  return writeModel(modelOf(b.finish()));
}

const SLOTS = 1;
const CAPACITY_BYTES = 1_000_000;

describe("ModelMesh's service, by a client of gRPC", () => {
  let folder: string;
  let models: string;
  let server: RunningServer;
  let client: Client;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'bonsai-mesh-'));
    models = join(folder, 'pulled');
    const put = async (path: string, n: number) => {
      await mkdir(join(folder, path, '..'), { recursive: true });
      await writeFile(join(folder, path), adder(n));
    };
    await put('repository/own/1/model.onnx', 1);
    await put('pulled/single/net.onnx', 10);
    await put('pulled/triton/2/model.onnx', 2);
    await put('pulled/triton/10/model.onnx', 100);
    await put('pulled/family/1/model.onnx', 1000);
    await put('pulled/family/2/model.onnx', 2000);
    await writeFile(join(models, 'family/bonsai.json'), '{}');
    await put('secret/model.onnx', 5);
    await symlink(join(folder, 'secret'), join(models, 'link'));
    await put('pulled/other.onnx', 3);
    await writeFile(join(models, 'broken.onnx'), 'no network');
    server = await start({ modelMesh: { folder: models, capacityBytes: CAPACITY_BYTES } });
    client = new Client(server.grpcAddress!, credentials.createInsecure());
  });

  afterAll(async () => {
    client.close();
    await server.close();
    await rm(folder, { recursive: true, force: true });
  });

  const start = (options: Partial<ServerOptions>) =>
    startServer({
      repository: join(folder, 'repository'),
      logger: pino({ level: 'silent' }),
      clock: systemClock,
      httpPort: 0,
      grpcPort: 0,
      metricsPort: 0,
      slots: SLOTS,
      ...options,
    });

  function call<I extends DescMessage, O extends DescMessage>(
    path: string,
    input: I,
    output: O,
    value: MessageInitShape<I>,
    by = client,
  ): Promise<MessageShape<O>> {
    return new Promise((resolve, reject) => {
      by.makeUnaryRequest(
        path,
        (message: MessageShape<I>) => Buffer.from(toBinary(input, message)),
        (bytes: Buffer) => fromBinary(output, bytes),
        create(input, value),
        (error, answer) => (error ? reject(error) : resolve(answer!)),
      );
    });
  }
  const load = (modelId: string, modelPath: string, by?: Client) =>
    call(
      '/mmesh.ModelRuntime/loadModel',
      pb.LoadModelRequestSchema,
      pb.LoadModelResponseSchema,
      { modelId, modelPath, modelType: 'onnx' },
      by,
    );
  const unload = (modelId: string) =>
    call('/mmesh.ModelRuntime/unloadModel', pb.UnloadModelRequestSchema, pb.UnloadModelResponseSchema, {
      modelId,
    });
  const sizeOf = (modelId: string) =>
    call('/mmesh.ModelRuntime/modelSize', pb.ModelSizeRequestSchema, pb.ModelSizeResponseSchema, { modelId });
  const runtimeStatus = () =>
    call(
      '/mmesh.ModelRuntime/runtimeStatus',
      pb.RuntimeStatusRequestSchema,
      pb.RuntimeStatusResponseSchema,
      {},
    );
  const predict = (modelPath: string) =>
    call(
      '/mmesh.ModelRuntime/predictModelSize',
      pb.PredictModelSizeRequestSchema,
      pb.PredictModelSizeResponseSchema,
      { modelId: 'any', modelPath },
    );
  /** What a model makes of 0. */
  const ofZero = async (modelName: string) => {
    const inputs = [{ name: 'x', datatype: 'FP32', shape: [1n], contents: { fp32Contents: [0] } }];
    const answer = await call(
      '/inference.GRPCInferenceService/ModelInfer',
      ModelInferRequestSchema,
      ModelInferResponseSchema,
      { modelName, inputs },
    );
    const [bytes] = answer.rawOutputContents;
    return bytes === undefined
      ? answer.outputs[0]!.contents!.fp32Contents[0]
      : Buffer.from(bytes).readFloatLE();
  };

  it('loads a file or a folder under any name, serves it, tells its size and unloads it', async () => {
    const expected = BigInt(MEMORY_PER_FILE_BYTE * SLOTS * adder(10).byteLength);
    expect((await predict('single')).sizeInBytes).toBe(expected);
    expect((await load('digits__isvc-1', join(models, 'single'))).sizeInBytes).toBe(expected);
    await load('triton', 'triton');
    await load('family', 'family');
    await load('file', 'single/net.onnx');
    expect(await Promise.all(['digits__isvc-1', 'triton', 'family', 'file'].map(ofZero))).toEqual([
      10, 100, 1000, 10,
    ]);
    expect((await sizeOf('digits__isvc-1')).sizeInBytes).toBe(expected);
    await load('file', 'triton');
    expect(await ofZero('file')).toBe(100);
    await unload('file');
    await unload('never-loaded');
    await expect(ofZero('file')).rejects.toMatchObject({ code: status.NOT_FOUND });
    await expect(sizeOf('file')).rejects.toMatchObject({ code: status.NOT_FOUND });
  });

  it('lets nothing remain of a load that is unloaded while it is under way', async () => {
    // What ModelMesh does after it has given up a load.
    await Promise.all([load('hasty', 'single'), unload('hasty')]);
    await expect(ofZero('hasty')).rejects.toMatchObject({ code: status.NOT_FOUND });
  });

  it.each([
    ['../secret', /leads out of the folder of models/],
    ['link', /leads out of the folder of models/],
    ['/etc/hostname', /leads out of the folder of models/],
    ['nowhere', /cannot be read/],
    ['.', /has 2 ONNX files/],
  ])('reads nothing at %j', async (path, message) => {
    await expect(load('stray', path)).rejects.toMatchObject({
      code: status.INVALID_ARGUMENT,
      details: expect.stringMatching(message),
    });
  });

  it('refuses what is no network, and names that are not its own', async () => {
    await expect(load('broken', 'broken.onnx')).rejects.toMatchObject({ code: status.INVALID_ARGUMENT });
    await expect(load('../x', 'single')).rejects.toMatchObject({
      details: expect.stringMatching(/cannot name a model/),
    });
    await expect(load('own', 'single')).rejects.toMatchObject({
      details: expect.stringMatching(/own repository/),
    });
    await unload('own');
    expect(await ofZero('own')).toBe(1);
  });

  it('tells what it can hold, and lets go of what a ModelMesh before loaded', async () => {
    await load('left', 'single');
    expect(await runtimeStatus()).toMatchObject({
      status: 1,
      capacityInBytes: BigInt(CAPACITY_BYTES),
      maxLoadingConcurrency: 1,
      methodInfos: { 'inference.GRPCInferenceService/ModelInfer': { idInjectionPath: [1] } },
    });
    await expect(ofZero('left')).rejects.toMatchObject({ code: status.NOT_FOUND });
    expect(await ofZero('own')).toBe(1);
  });

  it('is not there unless it is asked for', async () => {
    const plain = await start({});
    const other = new Client(plain.grpcAddress!, credentials.createInsecure());
    try {
      await expect(load('x', 'single', other)).rejects.toMatchObject({ code: status.UNIMPLEMENTED });
    } finally {
      other.close();
      await plain.close();
    }
  });
});
