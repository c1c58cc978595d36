import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { setImmediate } from 'node:timers/promises';
import { deflateSync, gunzipSync, gzipSync } from 'node:zlib';
import pino from 'pino';
import { request } from 'undici';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../base/clock.ts';
import type { DType } from '../base/dtype.ts';
import { float32Tensor } from '../base/tensor.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { digestOf } from '../repository/digest.ts';
import { writeTask } from '../repository/store.ts';
import { folderStore } from '../repository/task-store.ts';
import { MANIFEST_SCHEMA_VERSION, type TaskManifest, type Variant } from '../repository/types.ts';
import { Loader } from './loader.ts';
import { ModelRegistry } from './model-registry.ts';
import { agent, call, start } from './server.fixture.ts';
import type { RunningServer } from './server.ts';

const logger = pino({ level: 'silent' });

/** logits = 10 · version + sum(image): the answer tells which version gave it. `size` > 0 makes it slow. */
function scorer(version: number, slowness = 0): Uint8Array {
  const b = new GraphBuilder('scorer');
  const image = b.input('image', 'float32', ['N', 1, 2, 2]);
  let flat = b.op('Flatten', [image], { axis: 1 });
  if (slowness > 0) {
    // A wide detour that contributes 0: relu(flat · 0) passed through square matrices.
    const wide = 256;
    let x = b.op('MatMul', [flat, b.constant(float32Tensor([4, wide], new Float32Array(4 * wide)))]);
    const w = b.constant(float32Tensor([wide, wide], new Float32Array(wide * wide).fill(1e-9)));
    for (let i = 0; i < slowness; i++) x = b.op('Relu', [b.op('MatMul', [x, w])]);
    flat = b.op('Add', [flat, b.op('ReduceMean', [x], { axes: [1], keepdims: 1 })]);
  }
  const sum = b.op('MatMul', [flat, b.constant(float32Tensor([4, 1], [1, 1, 1, 1]))]);
  b.output(b.op('Add', [sum, b.scalar(10 * version)], {}, { outputs: ['logits'] }), 'float32', ['N', 1]);
  return writeModel(modelOf(b.finish()));
}

/** y = x for any element type. */
function identity(dtype: DType): Uint8Array {
  const b = new GraphBuilder('identity');
  b.output(b.op('Identity', [b.input('x', dtype, ['N'])], {}, { outputs: ['y'] }), dtype, ['N']);
  return writeModel(modelOf(b.finish()));
}

async function writeScorer(
  root: string,
  task: string,
  versions: readonly number[],
  slowness = 0,
): Promise<void> {
  const models = new Map(versions.map((version) => [version, scorer(version, slowness)]));
  const variants = [...models].map(
    ([version, bytes]): Variant => ({
      version,
      digest: digestOf(bytes),
      sizeBytes: bytes.byteLength,
      accuracy: { test: 1 - version / 10, testCount: 100 },
      macs: 1000 - version,
      parameters: 5,
      lineage: {},
      profiles: {},
    }),
  );
  const manifest: TaskManifest = {
    schemaVersion: MANIFEST_SCHEMA_VERSION,
    task,
    inputs: [{ name: 'image', dtype: 'float32', shape: [-1, 1, 2, 2] }],
    outputs: [{ name: 'logits', dtype: 'float32', shape: [-1, 1] }],
    variants,
  };
  await writeTask(root, manifest, models);
}

async function writeForeign(root: string, name: string, bytes: Uint8Array): Promise<void> {
  await mkdir(join(root, name, '1'), { recursive: true });
  await writeFile(join(root, name, '1', 'model.onnx'), bytes);
}

const image = (data: unknown = [1, 2, 3, 4], shape: unknown = [1, 1, 2, 2]) => ({
  name: 'image',
  datatype: 'FP32',
  shape,
  data,
});
const inferBody = (input: unknown = image(), extra: object = {}) => ({ inputs: [input], ...extra });
const specific = (...versions: number[]) => ({
  parameters: { config: JSON.stringify({ version_policy: { specific: { versions } } }) },
});
const load = (server: RunningServer, task: string, ...versions: number[]) =>
  call(server, 'POST', `/v2/repository/models/${task}/load`, specific(...versions));

/** JSON followed by bytes, with the header that tells them apart. */
function binary(json: object, ...blobs: Uint8Array[]): [Uint8Array, Record<string, string>] {
  const head = Buffer.from(JSON.stringify(json));
  return [Buffer.concat([head, ...blobs]), { 'inference-header-content-length': String(head.byteLength) }];
}

const floats = (...values: number[]) => new Uint8Array(Float32Array.from(values).buffer);
const binaryImage = (size: number, shape = [1, 1, 2, 2]) => ({
  name: 'image',
  datatype: 'FP32',
  shape,
  parameters: { binary_data_size: size },
});

describe('the protocol', () => {
  let root: string;
  let server: RunningServer;

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'bonsai-serve-'));
    await writeScorer(root, 'digits', [1, 2]);
    for (const dtype of ['int64', 'uint64', 'float16', 'bool', 'string', 'int8'] as const) {
      await writeForeign(root, `echo-${dtype}`, identity(dtype));
    }
    server = await start(root, { limits: { maxBodyBytes: 4096, maxJsonDepth: 16 } });
  });
  afterAll(async () => {
    await server.close();
    await rm(root, { recursive: true, force: true });
  });

  const infer = '/v2/models/digits/infer';
  const cases: readonly [
    title: string,
    method: 'GET' | 'POST' | 'PUT' | 'DELETE',
    path: string,
    body: unknown,
    status: number,
    error?: RegExp,
  ][] = [
    ['live', 'GET', '/v2/health/live', undefined, 200],
    ['ready', 'GET', '/v2/health/ready', undefined, 200],
    ['server metadata', 'GET', '/v2', undefined, 200],
    ['model ready', 'GET', '/v2/models/digits/ready', undefined, 200],
    ['version ready', 'GET', '/v2/models/digits/versions/1/ready', undefined, 200],
    [
      'version not loaded is not ready',
      'GET',
      '/v2/models/digits/versions/2/ready',
      undefined,
      400,
      /Model version not ready/,
    ],
    ['ready of an unknown model', 'GET', '/v2/models/nope/ready', undefined, 404, /unknown model: 'nope'/],
    ['metadata of an unknown model', 'GET', '/v2/models/nope', undefined, 404],
    ['config of an unknown model', 'GET', '/v2/models/nope/config', undefined, 404],
    ['statistics of an unknown model are 400, as Triton', 'GET', '/v2/models/nope/stats', undefined, 400],
    ['infer on an unknown model', 'POST', '/v2/models/nope/infer', inferBody(), 404, /unknown model/],
    [
      'infer on an unknown version',
      'POST',
      '/v2/models/digits/versions/9/infer',
      inferBody(),
      404,
      /version 9/,
    ],
    [
      'infer on a version that is not loaded',
      'POST',
      '/v2/models/digits/versions/2/infer',
      inferBody(),
      503,
      /not at ready state/,
    ],
    [
      'version 0',
      'POST',
      '/v2/models/digits/versions/0/infer',
      inferBody(),
      404,
      /version 0 is not found; it has 1, 2/,
    ],
    [
      'a version larger than any',
      'POST',
      '/v2/models/digits/versions/20240101123045/infer',
      inferBody(),
      404,
      /version 20240101123045 is not found/,
    ],
    [
      'a version that is too large for a number',
      'POST',
      '/v2/models/digits/versions/99999999999999999999/infer',
      inferBody(),
      400,
      /'99999999999999999999' is not a model version/,
    ],
    ['a version padded with zeros', 'GET', '/v2/models/digits/versions/01', undefined, 400, /'01' is not/],
    [
      'a version that is no number',
      'POST',
      '/v2/models/digits/versions/abc/infer',
      inferBody(),
      404,
      /Not Found/,
    ],
    ['an unknown route', 'GET', '/v2/nothing', undefined, 404, /Not Found/],
    ['a route outside v2', 'GET', '/', undefined, 404],
    ['metrics not on this port', 'GET', '/metrics', undefined, 404],
    ['a wrong method', 'GET', infer, undefined, 405, /Method Not Allowed/],
    ['a wrong method on health', 'DELETE', '/v2/health/live', undefined, 405],
    ['a path that leads upwards', 'GET', '/v2/models/..%2f..%2fetc', undefined, 404],
    [
      'loading a path that leads upwards',
      'POST',
      '/v2/repository/models/..%2f..%2fetc/load',
      undefined,
      400,
      /failed to load/,
    ],
    ['loading a hidden folder', 'POST', '/v2/repository/models/.git/load', undefined, 400],
    ['broken percent escapes', 'GET', '/v2/models/%zz', undefined, 404],
    ['a named repository', 'POST', '/v2/repository/mine/models/digits/load', undefined, 501],
    [
      'loading an unknown model is 500, as Triton',
      'POST',
      '/v2/repository/models/nope/load',
      undefined,
      500,
      /^failed to load 'nope', failed to poll from model repository$/,
    ],
    [
      'unloading an unknown model is 200, as Triton',
      'POST',
      '/v2/repository/models/nope/unload',
      undefined,
      200,
    ],
    [
      'loading a version that is not there',
      'POST',
      '/v2/repository/models/digits/load',
      specific(7),
      400,
      /no version 7; the repository has 1, 2/,
    ],
    [
      'loading with a config that is no JSON',
      'POST',
      '/v2/repository/models/digits/load',
      { parameters: { config: '{' } },
      400,
      /failed to parse the JSON of the parameter 'config'/,
    ],
    [
      'loading with two version policies',
      'POST',
      '/v2/repository/models/digits/load',
      { parameters: { config: '{"version_policy":{"all":{},"latest":{}}}' } },
      400,
      /'version_policy'.*expected one of/,
    ],
    [
      'loading with a config that is no string',
      'POST',
      '/v2/repository/models/digits/load',
      { parameters: { config: {} } },
      400,
    ],
    [
      'overriding what cannot be',
      'POST',
      '/v2/repository/models/digits/load',
      { parameters: { config: '{"max_batch_size":8}' } },
      400,
      /max_batch_size/,
    ],
    ['malformed JSON', 'POST', infer, '{"inputs":[', 400, /parse/],
    ['an empty body', 'POST', infer, '', 400],
    ['not UTF-8', 'POST', infer, Buffer.from([0x22, 0xff, 0x22]), 400],
    ['a body that is no object', 'POST', infer, '[]', 400],
    ['no inputs', 'POST', infer, {}, 400, /'inputs'/],
    ['an empty list of inputs', 'POST', infer, { inputs: [] }, 400, /missing/],
    [
      'an unknown input',
      'POST',
      infer,
      inferBody({ ...image(), name: 'picture' }),
      400,
      /unexpected inference input 'picture' for model 'digits'; it takes 'image'/,
    ],
    [
      'an unknown input whose data do not fit its shape either',
      'POST',
      infer,
      inferBody({ ...image([1, 2, 3], [1, 4]), name: 'picture' }),
      400,
      /unexpected inference input 'picture' for model 'digits'; it takes 'image'/,
    ],
    ['an input twice', 'POST', infer, { inputs: [image(), image()] }, 400, /more than once/],
    [
      'an unknown output',
      'POST',
      infer,
      inferBody(image(), { outputs: [{ name: 'x' }] }),
      400,
      /unexpected inference output 'x' for model 'digits'; it gives 'logits'/,
    ],
    [
      'a wrong datatype',
      'POST',
      infer,
      inferBody({ ...image(), datatype: 'INT32' }),
      400,
      /INT32, expected FP32/,
    ],
    ['an unknown datatype', 'POST', infer, inferBody({ ...image(), datatype: 'FP31' }), 400],
    ['a wrong rank', 'POST', infer, inferBody(image([1, 2, 3, 4], [1, 4])), 400, /expected \[-1,1,2,2\]/],
    ['a wrong size', 'POST', infer, inferBody(image([1, 2, 3, 4, 5, 6], [1, 1, 2, 3])), 400],
    ['too few elements', 'POST', infer, inferBody(image([1, 2, 3])), 400, /got 3 elements/],
    ['too many elements', 'POST', infer, inferBody(image([1, 2, 3, 4, 5])), 400, /more than 4/],
    ['a negative size', 'POST', infer, inferBody(image([1], [-1, 1, 2, 2])), 400],
    ['a size that is no integer', 'POST', infer, inferBody(image([1], [1.5, 1, 2, 2])), 400],
    ['an enormous shape', 'POST', infer, inferBody(image([1], [1e15, 1e15, 2, 2])), 400],
    ['data null', 'POST', infer, inferBody(image(null)), 400],
    ['data of strings', 'POST', infer, inferBody(image(['1', '2', '3', '4'])), 400],
    ['data missing', 'POST', infer, inferBody({ name: 'image', datatype: 'FP32', shape: [1, 1, 2, 2] }), 400],
    ['a reserved parameter', 'POST', infer, inferBody(image(), { parameters: { triton_x: 1 } }), 400],
    ['a negative timeout', 'POST', infer, inferBody(image(), { parameters: { timeout: -1 } }), 400],
    [
      'shared memory',
      'POST',
      infer,
      inferBody({ ...image(), parameters: { shared_memory_region: 'r' } }),
      501,
    ],
    ['deep nesting', 'POST', infer, `{"inputs":${'['.repeat(40)}${']'.repeat(40)}}`, 400, /nested/],
    ['a body over the limit', 'POST', infer, 'x'.repeat(5000), 413, /maximum of 4096 bytes: it has 5000/],
    [
      'a number beyond FP32',
      'POST',
      infer,
      inferBody(image([1, 2, 3, 4, 5, 6, 1e300, 8], [2, 1, 2, 2])),
      400,
      /input 'image': 1e\+300 is outside the range of FP32 \(±3.4028235e38\) at \[1,0,1,0\]/,
    ],
    [
      'a number beyond any float',
      'POST',
      infer,
      '{"inputs":[{"name":"image","datatype":"FP32","shape":[1,1,2,2],"data":[1,2,3,1e999]}]}',
      400,
      /a number is outside the range of FP32 .* at \[0,0,1,1\]/,
    ],
    [
      'an integer of many digits for a float',
      'POST',
      infer,
      `{"inputs":[{"name":"image","datatype":"FP32","shape":[1,1,2,2],"data":[1,2,3,${'9'.repeat(400)}]}]}`,
      400,
      /a number is outside the range of FP32/,
    ],
    ['data of long strings', 'POST', infer, inferBody(image(['x'.repeat(500), 2, 3, 4])), 400, /got "x{59}…/],
    [
      'an int8 out of range',
      'POST',
      '/v2/models/echo-int8/infer',
      { inputs: [{ name: 'x', datatype: 'INT8', shape: [1], data: [128] }] },
      400,
    ],
    [
      'FP16 as JSON',
      'POST',
      '/v2/models/echo-float16/infer',
      { inputs: [{ name: 'x', datatype: 'FP16', shape: [1], data: [1] }] },
      400,
      /binary/,
    ],
    [
      'BOOL as numbers',
      'POST',
      '/v2/models/echo-bool/infer',
      { inputs: [{ name: 'x', datatype: 'BOOL', shape: [1], data: [1] }] },
      400,
    ],
  ];
  it.each(cases)('%s', async (_, method, path, body, status, error) => {
    const reply = await call(server, method, path, body);
    expect([reply.status, reply.text]).toEqual([status, expect.any(String)]);
    if (status >= 400) expect(reply.json.error).toMatch(error ?? /./);
  });

  const oddHeaders: readonly [string, string, Record<string, string>, number][] = [
    ['a header length that is no number', 'x', { 'inference-header-content-length': 'abc' }, 400],
    ['a negative header length', 'x', { 'inference-header-content-length': '-1' }, 400],
    ['a header length beyond the body', '{}', { 'inference-header-content-length': '3' }, 400],
    ['an unknown encoding', '{}', { 'content-encoding': 'br' }, 501],
    ['damaged gzip', '{}', { 'content-encoding': 'gzip' }, 400],
  ];
  it.each(oddHeaders)('%s', async (_, body, headers, status) => {
    expect((await call(server, 'POST', infer, body, headers)).status).toBe(status);
  });

  it('answers with the version, its accuracy and the id, flat or nested data alike', async () => {
    const flat = await call(server, 'POST', infer, inferBody(image(), { id: 'a1' }));
    expect(flat.json).toMatchObject({
      id: 'a1',
      model_name: 'digits',
      model_version: '1',
      parameters: { accuracy: 0.9 },
    });
    expect(flat.json.outputs).toEqual([{ name: 'logits', datatype: 'FP32', shape: [1, 1], data: [20] }]);
    const nested = await call(
      server,
      'POST',
      infer,
      inferBody(
        image([
          [
            [
              [1, 2],
              [3, 4],
            ],
          ],
        ]),
      ),
    );
    expect(nested.json.outputs).toEqual(flat.json.outputs);
    expect(nested.json.id).toBeUndefined();
  });

  it('takes batches larger than the ring has room for', async () => {
    const data = Array.from({ length: 40 * 4 }, () => 1);
    const reply = await call(server, 'POST', infer, inferBody(image(data, [40, 1, 2, 2])));
    expect(reply.json.outputs[0].data).toEqual(Array.from({ length: 40 }, () => 14));
  });

  it('takes an empty batch', async () => {
    const reply = await call(server, 'POST', '/v2/models/echo-int64/infer', {
      inputs: [{ name: 'x', datatype: 'INT64', shape: [0], data: [] }],
    });
    expect(reply.json.outputs).toEqual([{ name: 'y', datatype: 'INT64', shape: [0], data: [] }]);
  });

  it('keeps every digit of 64-bit integers', async () => {
    const signed = '[9007199254740993,-9223372036854775808,9223372036854775807,1]';
    const body = `{"inputs":[{"name":"x","datatype":"INT64","shape":[4],"data":${signed}}]}`;
    expect((await call(server, 'POST', '/v2/models/echo-int64/infer', body)).text).toContain(
      `"data":${signed}`,
    );
    const unsigned = body.replace('INT64', 'UINT64').replace(signed, '[18446744073709551615,0,1,2]');
    expect((await call(server, 'POST', '/v2/models/echo-uint64/infer', unsigned)).text).toContain(
      '[18446744073709551615,0,1,2]',
    );
    const beyond = body.replace('9223372036854775807', '9223372036854775808');
    expect((await call(server, 'POST', '/v2/models/echo-int64/infer', beyond)).status).toBe(400);
  });

  it('echoes strings and booleans', async () => {
    const texts = ['ä"\n', '', 'a\0b\0'];
    const strings = { inputs: [{ name: 'x', datatype: 'BYTES', shape: [3], data: texts }] };
    expect(
      (await call(server, 'POST', '/v2/models/echo-string/infer', strings)).json.outputs[0].data,
    ).toEqual(texts);
    const bools = { inputs: [{ name: 'x', datatype: 'BOOL', shape: [2], data: [true, false] }] };
    expect((await call(server, 'POST', '/v2/models/echo-bool/infer', bools)).json.outputs[0].data).toEqual([
      true,
      false,
    ]);
  });

  it('takes and gives binary tensors', async () => {
    const [body, headers] = binary(
      { inputs: [binaryImage(16)], parameters: { binary_data_output: true } },
      floats(1, 2, 3, 4),
    );
    const reply = await call(server, 'POST', infer, body, headers);
    expect(reply.headers['content-type']).toBe('application/octet-stream');
    const length = Number(reply.headers['inference-header-content-length']);
    expect(JSON.parse(reply.bytes.subarray(0, length).toString()).outputs[0].parameters).toEqual({
      binary_data_size: 4,
    });
    expect(reply.bytes.readFloatLE(length)).toBe(20);
  });

  it('lets an output overrule the request on binary data', async () => {
    const outputs = [{ name: 'logits', parameters: { binary_data: false } }];
    const reply = await call(
      server,
      'POST',
      infer,
      inferBody(image(), { outputs, parameters: { binary_data_output: true } }),
    );
    expect(reply.headers['content-type']).toBe('application/json');
    expect(reply.headers['inference-header-content-length']).toBeUndefined();
    expect(reply.json.outputs[0].data).toEqual([20]);
  });

  it.each([
    ['too short', binaryImage(16), floats(1, 2, 3)],
    ['left over', binaryImage(16), floats(1, 2, 3, 4, 5)],
    ['not the size of the shape', binaryImage(12), floats(1, 2, 3)],
  ])('refuses binary data: %s', async (_, input, bytes) => {
    const [body, headers] = binary({ inputs: [input] }, bytes);
    expect((await call(server, 'POST', infer, body, headers)).status).toBe(400);
  });

  it('takes a raw request and works out its batch', async () => {
    const reply = await call(server, 'POST', infer, floats(1, 2, 3, 4, 0, 0, 0, 0), {
      'inference-header-content-length': '0',
    });
    const length = Number(reply.headers['inference-header-content-length']);
    expect(JSON.parse(reply.bytes.subarray(0, length).toString()).outputs[0].shape).toEqual([2, 1]);
    expect([reply.bytes.readFloatLE(length), reply.bytes.readFloatLE(length + 4)]).toEqual([20, 10]);
  });

  it('echoes FP16 as binary data', async () => {
    const input = { name: 'x', datatype: 'FP16', shape: [2], parameters: { binary_data_size: 4 } };
    const bytes = Uint8Array.from([0x00, 0x3c, 0x01, 0x7c]);
    const [body, headers] = binary({ inputs: [input], parameters: { binary_data_output: true } }, bytes);
    expect(
      (await call(server, 'POST', '/v2/models/echo-float16/infer', body, headers)).bytes.subarray(-4),
    ).toEqual(Buffer.from(bytes));
  });

  it('takes compressed bodies, bounded after decompression, and compresses on request', async () => {
    const text = JSON.stringify(inferBody());
    for (const [encoding, bytes] of [
      ['gzip', gzipSync(text)],
      ['deflate', deflateSync(text)],
    ] as const) {
      const reply = await call(server, 'POST', infer, bytes, {
        'content-encoding': encoding,
        'accept-encoding': 'gzip',
      });
      expect(reply.headers['content-encoding']).toBe('gzip');
      expect(JSON.parse(gunzipSync(reply.bytes).toString()).outputs[0].data).toEqual([20]);
    }
    const bomb = await call(server, 'POST', infer, gzipSync(Buffer.alloc(1_000_000)), {
      'content-encoding': 'gzip',
    });
    expect([bomb.status, bomb.json.error]).toEqual([413, expect.stringMatching(/exceeds the maximum/)]);
  });

  it('answers a body over the limit also to clients that write all of it before they read', async () => {
    const size = 32 * 1024 * 1024; // More than the buffers of both sockets hold.
    const answer = await new Promise<string>((resolve, reject) => {
      const socket = connect(server.ports.http, '127.0.0.1');
      let text = '';
      socket.pause();
      socket.write(`POST ${infer} HTTP/1.1\r\nHost: x\r\nContent-Length: ${size}\r\n\r\n`);
      socket.write(Buffer.alloc(size), () => socket.resume());
      socket.on('data', (chunk) => {
        text += chunk;
      });
      socket.on('error', reject);
      socket.on('close', () => resolve(text));
    });
    expect(answer).toMatch(/^HTTP\/1.1 413 (.|\r\n)*"error":"the request body exceeds the maximum/);
  });

  it('answers a body over the limit whose length nobody announced', async () => {
    const response = await request(`${server.httpUrl}${infer}`, {
      method: 'POST',
      body: Readable.from([Buffer.alloc(3000), Buffer.alloc(3000)]),
      dispatcher: agent,
    });
    expect([response.statusCode, await response.body.json()]).toEqual([
      413,
      { error: expect.stringMatching(/maximum of 4096 bytes: it goes on beyond that/) },
    ]);
  });

  it('describes models and their configuration', async () => {
    expect((await call(server, 'GET', '/v2/models/digits')).json).toEqual({
      name: 'digits',
      versions: ['1'],
      platform: 'onnxruntime_onnx',
      inputs: [{ name: 'image', datatype: 'FP32', shape: [-1, 1, 2, 2] }],
      outputs: [{ name: 'logits', datatype: 'FP32', shape: [-1, 1] }],
    });
    const config = await call(server, 'GET', '/v2/models/digits/config');
    expect(config.json).toMatchObject({ max_batch_size: 0, version_policy: { specific: { versions: [1] } } });
    // What was given can be sent back.
    const back = { parameters: { config: config.text } };
    expect((await call(server, 'POST', '/v2/repository/models/digits/load', back)).status).toBe(200);
  });

  it('serves a folder without manifest, its accuracy unknown', async () => {
    const reply = await call(server, 'POST', '/v2/models/echo-int8/infer', {
      inputs: [{ name: 'x', datatype: 'INT8', shape: [1], data: [-128] }],
    });
    expect(reply.json.outputs[0].data).toEqual([-128]);
    expect(reply.json.parameters.accuracy).toBeUndefined();
  });

  it('counts in statistics and metrics', async () => {
    const before = (await call(server, 'GET', '/v2/models/digits/stats')).json.model_stats[0];
    await call(server, 'POST', infer, inferBody(image([1, 2, 3, 4, 1, 2, 3, 4], [2, 1, 2, 2])));
    const after = (await call(server, 'GET', '/v2/models/digits/versions/1/stats')).json.model_stats[0];
    expect(after.inference_count - before.inference_count).toBe(2);
    expect(after.execution_count - before.execution_count).toBe(1);
    expect(after.inference_stats.compute_infer.ns).toBeGreaterThan(before.inference_stats.compute_infer.ns);
    const text = await (await request(server.metricsUrl)).body.text();
    expect(text).toContain(
      `nv_inference_request_success{model="digits",version="1"} ${after.inference_stats.success.count}`,
    );
    for (const reason of ['REJECTED', 'CANCELED', 'BACKEND', 'OTHER']) {
      expect(text).toContain(`nv_inference_request_failure{model="digits",version="1",reason="${reason}"} 0`);
    }
    expect(text).toContain('bonsai_serving_version{model="digits"} 1');
    expect(text).toMatch(/bonsai_requests_total\{model="digits",outcome="invalid"\} [1-9]/);
    expect(text).toContain('bonsai_cpu_budget_cores 1');
    expect(text).toMatch(/process_cpu_seconds_total \d/);
    expect(text).toContain('# TYPE bonsai_queue_seconds histogram');
    for (const suffix of [
      'bucket{model="digits",version="1",le="+Inf"}',
      'count{model="digits",version="1"}',
    ]) {
      expect(text).toContain(`bonsai_queue_seconds_${suffix} ${after.inference_stats.success.count}`);
    }
    expect(text).toContain('bonsai_version_accuracy_ratio{model="digits",version="1"} 0.9');
    for (const name of ['nv_cpu_utilization', 'nv_cpu_memory_used_bytes', 'bonsai_cpu_budget_utilization'])
      expect(text).toMatch(new RegExp(`^${name} [0-9.e-]+$`, 'm'));
  });
});

describe('the server', () => {
  let root: string;
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'bonsai-serve-'));
    await writeScorer(root, 'digits', [1, 2, 3]);
    await writeScorer(root, 'slow', [1], 200);
  });
  afterAll(() => rm(root, { recursive: true, force: true }));

  /** Four clients that never pause, until told to stop; the versions that answered, and the failures. */
  function clients(server: RunningServer, path = '/v2/models/digits/infer') {
    const versions = new Map<string, number>();
    const failures: string[] = [];
    let isStopped = false;
    const client = async () => {
      while (!isStopped) {
        const reply = await call(server, 'POST', path, inferBody());
        if (reply.status !== 200) failures.push(`${reply.status} ${reply.text}`);
        else if (reply.json.outputs[0].data[0] !== 10 * Number(reply.json.model_version) + 10)
          failures.push(`wrong: ${reply.text}`);
        else versions.set(reply.json.model_version, (versions.get(reply.json.model_version) ?? 0) + 1);
      }
    };
    const running = Promise.all(Array.from({ length: 4 }, client));
    const stop = async () => {
      isStopped = true;
      await running;
    };
    return { versions, failures, stop };
  }

  it.each([true, false])(
    'switches versions under load without a failed request (privileged: %s)',
    async (isPrivileged) => {
      const server = await start(root, { isPrivileged, initialVersions: { digits: 1 } });
      try {
        const load4 = clients(server);
        for (const version of [3, 2, 1, 3]) expect((await load(server, 'digits', version)).status).toBe(200);
        await load4.stop();
        expect(load4.failures).toEqual([]);
        expect([...load4.versions.keys()].sort()).toEqual(['1', '2', '3']);
        const reply = await call(server, 'POST', '/v2/models/digits/infer', inferBody());
        expect(reply.json.model_version).toBe('3');
        const index = (await call(server, 'POST', '/v2/repository/index', { ready: true })).json;
        expect(index.filter((entry: { name: string }) => entry.name === 'digits')).toEqual([
          { name: 'digits', version: '3', state: 'READY' },
        ]);
        const metrics = await (await request(server.metricsUrl)).body.text();
        expect(metrics).not.toContain('model="digits",version="1"');
      } finally {
        await server.close();
      }
    },
  );

  it('keeps several versions, answers from the highest, reloads nothing on a plain load, and unloads', async () => {
    const server = await start(root);
    try {
      expect((await load(server, 'digits', 2, 1)).status).toBe(200);
      expect((await call(server, 'POST', '/v2/models/digits/infer', inferBody())).json.model_version).toBe(
        '2',
      );
      expect(
        (await call(server, 'POST', '/v2/models/digits/versions/1/infer', inferBody())).json.model_version,
      ).toBe('1');
      expect((await call(server, 'POST', '/v2/repository/models/digits/load')).status).toBe(200);
      expect((await call(server, 'GET', '/v2/models/digits')).json.versions).toEqual(['1', '2']);
      expect((await call(server, 'POST', '/v2/repository/models/digits/unload')).status).toBe(200);
      expect((await call(server, 'GET', '/v2/models/digits/ready')).status).toBe(400);
      expect(await (await request(server.metricsUrl)).body.text()).not.toContain('model="digits"');
      const unloaded = await call(server, 'POST', '/v2/models/digits/infer', inferBody());
      expect([unloaded.status, unloaded.json.error]).toEqual([
        404,
        "'digits' has no available versions: it is not loaded. Load it through the model repository extension: POST /v2/repository/models/digits/load",
      ]);
      expect((await call(server, 'POST', '/v2/repository/models/digits/load')).status).toBe(200);
      expect((await call(server, 'GET', '/v2/models/digits')).json.versions).toEqual(['1', '2']);
    } finally {
      await server.close();
    }
  });

  it('starts with the smallest where told', async () => {
    const server = await start(root, { initialVersions: 'smallest' });
    expect((await call(server, 'GET', '/v2/models/digits')).json.versions).toEqual(['3']);
    await server.close();
  });

  it('names folders that are no tasks', async () => {
    const own = await mkdtemp(join(tmpdir(), 'bonsai-folders-'));
    await writeScorer(own, 'digits', [1]);
    await mkdir(join(own, 'notes'));
    const log: string[] = [];
    const server = await start(own, {
      logger: pino({ level: 'warn' }, { write: (line: string) => void log.push(line) }),
    });
    try {
      expect(log.map((line) => JSON.parse(line))).toMatchObject([
        { folder: 'notes', msg: expect.stringMatching(/no task: .*bonsai\.json/) },
      ]);
    } finally {
      await server.close();
      await rm(own, { recursive: true, force: true });
    }
  });

  it('refuses damaged versions by name and keeps serving the rest', async () => {
    const damaged = await mkdtemp(join(tmpdir(), 'bonsai-damaged-'));
    await writeScorer(damaged, 'digits', [1, 2, 3]);
    await writeScorer(damaged, 'torn', [1]);
    await writeFile(join(damaged, 'torn', 'bonsai.json'), '{"schemaVersion":1,"task":"to');
    const wrong = scorer(1);
    wrong[wrong.length - 1]! ^= 1;
    await writeFile(join(damaged, 'digits', '1', 'model.onnx'), wrong);
    await rm(join(damaged, 'digits', '3', 'model.onnx'));
    const server = await start(damaged);
    try {
      // Version 1 is damaged, so the next best serves.
      expect((await call(server, 'POST', '/v2/models/digits/infer', inferBody())).json.model_version).toBe(
        '2',
      );
      const first = await load(server, 'digits', 1);
      expect([first.status, first.json.error]).toEqual([
        400,
        expect.stringMatching(/load failed for model 'digits'.*digest/),
      ]);
      const third = await load(server, 'digits', 3);
      expect([third.status, third.json.error]).toEqual([400, expect.stringMatching(/is missing/)]);
      expect((await call(server, 'POST', '/v2/models/digits/infer', inferBody())).json.model_version).toBe(
        '2',
      );
      const index = (await call(server, 'POST', '/v2/repository/index')).json;
      expect(index).toContainEqual({
        name: 'digits',
        version: '1',
        state: 'UNAVAILABLE',
        reason: expect.stringMatching(/digest/),
      });
      expect(index).toContainEqual({
        name: 'torn',
        state: 'UNAVAILABLE',
        reason: expect.stringMatching(/bonsai\.json/),
      });
    } finally {
      await server.close();
      await rm(damaged, { recursive: true, force: true });
    }
  });

  it.each([
    ['another network of the same size', (bytes: Uint8Array) => bytes.fill(0, -8), 'load'],
    ['a network cut short', (bytes: Uint8Array) => bytes.subarray(0, -8), 'problem'],
  ])('keeps a version READY whose reload fails, and says why: %s', async (_, damage, where) => {
    const folder = await mkdtemp(join(tmpdir(), 'bonsai-reload-'));
    await writeScorer(folder, 'digits', [1]);
    const server = await start(folder);
    try {
      // The manifest names a new network, so that the version is loaded anew, but its file is damaged.
      await writeScorer(folder, 'digits', [1], 1);
      const file = join(folder, 'digits', '1', 'model.onnx');
      const good = await readFile(file);
      await writeFile(file, damage(Uint8Array.from(good)));
      const reload = () => call(server, 'POST', '/v2/repository/models/digits/load');
      const index = async () => (await call(server, 'POST', '/v2/repository/index')).json;
      const failed = await reload();
      expect([failed.status, failed.json.error]).toEqual([400, expect.stringMatching(/^load failed/)]);
      expect(await index()).toEqual([
        {
          name: 'digits',
          version: '1',
          state: 'READY',
          reason: expect.stringMatching(
            where === 'load' ? /^not reloaded, .*digest/ : /^not reloaded, .*the manifest says/,
          ),
        },
      ]);
      expect((await call(server, 'POST', '/v2/models/digits/infer', inferBody())).status).toBe(200);
      await writeFile(file, good);
      expect((await reload()).status).toBe(200);
      expect(await index()).toEqual([{ name: 'digits', version: '1', state: 'READY' }]);
    } finally {
      await server.close();
      await rm(folder, { recursive: true, force: true });
    }
  });

  it('does not end a version that serves because its file has come to harm since', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'bonsai-harm-'));
    await writeScorer(folder, 'digits', [1, 2, 3]);
    const server = await start(folder);
    try {
      const all = { parameters: { config: JSON.stringify({ version_policy: { all: {} } }) } };
      await rm(join(folder, 'digits', '3', 'model.onnx'));
      // Version 3 does not serve yet, so the others do without it.
      expect((await call(server, 'POST', '/v2/repository/models/digits/load', all)).status).toBe(200);
      await rm(join(folder, 'digits', '1', 'model.onnx'));
      const reload = await call(server, 'POST', '/v2/repository/models/digits/load');
      expect([reload.status, reload.json.error]).toEqual([
        400,
        expect.stringMatching(/1.model.onnx: is missing/),
      ]);
      expect((await call(server, 'POST', '/v2/repository/index')).json).toEqual([
        { name: 'digits', version: '1', state: 'READY', reason: expect.stringMatching(/^not reloaded/) },
        { name: 'digits', version: '2', state: 'READY' },
        { name: 'digits', version: '3', state: 'UNAVAILABLE', reason: expect.stringMatching(/is missing/) },
      ]);
    } finally {
      await server.close();
      await rm(folder, { recursive: true, force: true });
    }
  });

  it('says of every task that it is LOADING while the server starts', async () => {
    const loader = new Loader({ spareCount: 1, logger, clock: systemClock });
    const models = new ModelRegistry({
      store: folderStore(root),
      slots: 1,
      loader,
      logger,
      clock: systemClock,
      maxResidentVersions: 8,
      onChange: () => {},
      onReleased: () => {},
    });
    const states = async () => (await models.index()).map(({ name, state }) => [name, state]);
    const isLoaded = models.loadAll('largest');
    expect(await states()).toEqual([
      ['digits', 'LOADING'],
      ['slow', 'LOADING'],
    ]);
    expect(() => models.get('slow')).toThrow("'slow' is not ready: the server is starting");
    while (!models.models.has('digits')) await setImmediate();
    expect(models.models.get('digits')!.isReady).toBe(false);
    expect(() => models.get('digits')).toThrow("'digits' is not ready: the server is starting");
    await isLoaded;
    expect(await states()).toEqual([
      ['digits', 'READY'],
      ['slow', 'READY'],
    ]);
    expect(() => models.get('nope')).toThrow("unknown model: 'nope'");
    await models.close();
    await loader.close();
  });

  it('bounds its queue and refuses with 503 and Retry-After', async () => {
    const server = await start(root, { limits: { maxQueueLength: 2 }, inlineBelowMs: 0 });
    try {
      const replies = await Promise.all(
        Array.from({ length: 16 }, () => call(server, 'POST', '/v2/models/slow/infer', inferBody())),
      );
      const refused = replies.filter((reply) => reply.status === 503);
      expect(refused.length).toBeGreaterThan(0);
      for (const reply of refused) expect(Number(reply.headers['retry-after'])).toBeGreaterThanOrEqual(1);
      expect(replies.length - refused.length).toBeGreaterThanOrEqual(3);
      expect(replies.every((reply) => reply.status === 200 || reply.status === 503)).toBe(true);
      const metrics = await (await request(server.metricsUrl)).body.text();
      expect(metrics).toMatch(/bonsai_requests_refused_total\{model="slow",reason="queue_full"\} [1-9]/);
      const total = [
        ...metrics.matchAll(/bonsai_requests_total\{model="slow",outcome="\w+"\} (\d+)/g),
      ].reduce((sum, match) => sum + Number(match[1]), 0);
      expect(total).toBe(16);
    } finally {
      await server.close();
    }
  });

  it('refuses at once what cannot be answered in time', async () => {
    const server = await start(root, { inlineBelowMs: 0 }); // In a thread of its own, so that requests meet others.
    try {
      const hurried = { ...inferBody(), parameters: { max_latency_ms: 0.01 } };
      const replies = await Promise.all([
        ...Array.from({ length: 4 }, () => call(server, 'POST', '/v2/models/slow/infer', inferBody())),
        ...Array.from({ length: 4 }, () => call(server, 'POST', '/v2/models/slow/infer', hurried)),
      ]);
      expect(replies.slice(0, 4).map((reply) => reply.status)).toEqual([200, 200, 200, 200]);
      expect(replies.slice(4).some((reply) => reply.status === 503)).toBe(true);
    } finally {
      await server.close();
    }
  });

  it('survives the loss of its inference thread, and answers what was lost with it', async () => {
    const server = await start(root);
    try {
      const load4 = clients(server, '/v2/models/digits/infer');
      for (let i = 0; i < 3; i++) {
        await call(server, 'POST', '/v2/models/digits/infer', inferBody());
        await server.models.get('digits').current!.crashLane(0);
        expect((await call(server, 'POST', '/v2/models/digits/infer', inferBody())).status).toBe(200);
      }
      await load4.stop();
      expect(load4.failures).toEqual([]);
    } finally {
      await server.close();
    }
  });

  it('drains: answers what it took in, then refuses connections', async () => {
    const server = await start(root);
    const pending = Array.from({ length: 6 }, () =>
      call(server, 'POST', '/v2/models/slow/infer', inferBody()),
    );
    // What is still on its way when a server closes is nobody's promise.
    while (server.models.get('slow').arrivals.accepted < pending.length) await setImmediate();
    const closed = server.close();
    const replies = await Promise.all(pending);
    expect(replies.map((reply) => reply.status)).toEqual([200, 200, 200, 200, 200, 200]);
    await closed;
    await expect(request(`${server.httpUrl}/v2/health/live`)).rejects.toThrow();
  });

  it('drains: answers also what is with the thread that reads and writes large JSON', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'bonsai-drain-'));
    await writeForeign(folder, 'echo', identity('float32'));
    const server = await start(folder);
    const count = 500_000;
    const body = `{"inputs":[{"name":"x","datatype":"FP32","shape":[${count}],"data":[${Array(count).fill('1.5').join()}]}]}`;
    const pending = Array.from({ length: 3 }, () =>
      call(server, 'POST', '/v2/models/echo/infer', body).then(({ status }) => status),
    );
    while (server.models.get('echo').arrivals.accepted === 0) await setImmediate();
    const closed = server.close();
    const statuses = await Promise.all(pending);
    expect(statuses).toContain(200);
    // What was not read by then is told to go elsewhere.
    expect(statuses.filter((status) => status !== 200 && status !== 503)).toEqual([]);
    await closed;
    await rm(folder, { recursive: true });
  });

  it('still answers what comes in just as it stops, and keeps no connection', async () => {
    const server = await start(root);
    const closed = server.close();
    const { statusCode, headers, body } = await request(`${server.httpUrl}/v2/models/digits`);
    await body.dump();
    expect([statusCode, headers.connection]).toEqual([200, 'close']);
    await closed;
  });

  it('drops the waiting request of a client that has gone', async () => {
    const server = await start(root);
    try {
      const busy = Array.from({ length: 4 }, () =>
        call(server, 'POST', '/v2/models/slow/infer', inferBody()),
      );
      const body = JSON.stringify(inferBody());
      const socket = connect(server.ports.http, '127.0.0.1');
      await new Promise<void>((resolve) => {
        socket.write(
          `POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
          () => resolve(),
        );
      });
      socket.destroy();
      expect((await Promise.all(busy)).map((reply) => reply.status)).toEqual([200, 200, 200, 200]);
      expect((await call(server, 'POST', '/v2/models/slow/infer', inferBody())).status).toBe(200);
    } finally {
      await server.close();
    }
  });

  it('asks for the token before it loads or unloads', async () => {
    const server = await start(root, { adminToken: 'secret' });
    try {
      expect((await load(server, 'digits', 2)).status).toBe(401);
      const allowed = await call(server, 'POST', '/v2/repository/models/digits/load', specific(2), {
        authorization: 'Bearer secret',
      });
      expect(allowed.status).toBe(200);
      expect((await call(server, 'POST', '/v2/models/digits/infer', inferBody())).status).toBe(200);
    } finally {
      await server.close();
    }
  });

  it('names a port that is in use', async () => {
    const other = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => other.once('listening', resolve));
    const address = other.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    await expect(start(root, { httpPort: port })).rejects.toMatchObject({
      code: 'port_in_use',
      message: expect.stringContaining(String(port)),
    });
    other.close();
  });

  it('refuses a public address without a token, and a repository that is not there', async () => {
    await expect(start(root, { host: '0.0.0.0' })).rejects.toMatchObject({ code: 'invalid_argument' });
    await expect(start(join(root, 'nowhere'))).rejects.toMatchObject({ code: 'missing_file' });
  });

  it('runs on the CPUs given, with a slot for each', async () => {
    const server = await start(root, { cpus: [0], slots: 2 });
    try {
      const load4 = clients(server);
      expect((await load(server, 'digits', 2)).status).toBe(200);
      await load4.stop();
      expect(load4.failures).toEqual([]);
    } finally {
      await server.close();
    }
  });
});
