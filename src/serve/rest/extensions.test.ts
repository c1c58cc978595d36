import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { gzipSync } from 'node:zlib';
import pino from 'pino';
import { request } from 'undici';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import type { DType } from '../../base/dtype.ts';
import { float32Tensor } from '../../base/tensor.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { readTlsIdentity } from '../safety/tls.ts';
import { agent, call, start as startSilent } from '../server.fixture.ts';
import type { RunningServer, ServerOptions } from '../server.ts';

/** y = x + shift. */
function shifted(shift: number): Uint8Array {
  const b = new GraphBuilder('shifted');
  const y = b.op('Add', [b.input('x', 'float32', ['N', 'M']), b.scalar(shift)], {}, { outputs: ['y'] });
  b.output(y, 'float32', ['N', 'M']);
  return writeModel(modelOf(b.finish()));
}

/** y = x, of any type. */
function identity(dtype: DType): Uint8Array {
  const b = new GraphBuilder('identity');
  b.output(b.op('Identity', [b.input('x', dtype, ['N'])], {}, { outputs: ['y'] }), dtype, ['N']);
  return writeModel(modelOf(b.finish()));
}

/** Gather: fails on an index out of its range, so that a warm-up can fail. */
function gather(): Uint8Array {
  const b = new GraphBuilder('gather');
  const table = b.constant(float32Tensor([2, 1], [10, 20]));
  b.output(b.op('Gather', [table, b.input('x', 'int64', ['N'])], {}, { outputs: ['y'] }), 'float32', [
    'N',
    1,
  ]);
  return writeModel(modelOf(b.finish()));
}

async function write(root: string, path: string, content: string | Uint8Array): Promise<void> {
  await mkdir(join(root, path, '..'), { recursive: true });
  await writeFile(join(root, path), content);
}

interface LogLine {
  readonly level: number;
  readonly msg: string;
  readonly [key: string]: unknown;
}

async function start(
  root: string,
  options: Partial<ServerOptions> = {},
  log: LogLine[] = [],
): Promise<RunningServer> {
  const logger = pino({ level: 'info' }, { write: (line: string) => void log.push(JSON.parse(line)) });
  return startSilent(root, { logger, ...options });
}

/** Everything that comes back for these bytes, until the server closes or the text has come. */
function raw(server: RunningServer, bytes: string | Uint8Array, until?: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(server.ports.http, '127.0.0.1', () => socket.write(bytes));
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk;
      if (until !== undefined && text.includes(until)) socket.destroy();
    });
    socket.on('error', reject);
    socket.on('close', () => resolve(text));
  });
}

const x = (data: unknown, shape: readonly number[], datatype = 'FP32') => ({
  name: 'x',
  datatype,
  shape,
  data,
});

describe('the REST protocol', () => {
  let root: string;
  let server: RunningServer;
  const log: LogLine[] = [];
  const infer = '/v2/models/plus/infer';

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'bonsai-rest-'));
    await write(root, 'plus/1/model.onnx', shifted(1));
    await write(root, 'plus/config.pbtxt', 'output [ { name: "y" label_filename: "labels.txt" } ]');
    await write(root, 'plus/labels.txt', 'cat\ndog\n');
    await write(root, 'ints/1/model.onnx', identity('int64'));
    server = await start(
      root,
      {
        logsRequests: true,
        limits: {
          maxJsonBytes: 2_000_000,
          maxBodyBytes: 2_500_000,
          maxInFlightBytes: 3_000_000,
          bodyIdleTimeoutMs: 300,
        },
      },
      log,
    );
  });
  afterAll(async () => {
    await server.close();
    await rm(root, { recursive: true, force: true });
  });

  it.each<[string, unknown, readonly number[], number]>([
    ['flat', [1, 2, 3, 4, 5, 6], [2, 3], 200],
    [
      'nested as the shape',
      [
        [1, 2, 3],
        [4, 5, 6],
      ],
      [2, 3],
      200,
    ],
    ['empty rows', [[], []], [2, 0], 200],
    ['nothing', [], [0, 3], 200],
    [
      'nested as another shape',
      [
        [1, 2],
        [3, 4],
        [5, 6],
      ],
      [2, 3],
      400,
    ],
    [
      'ragged',
      [
        [1, 2, 3, 4],
        [5, 6],
      ],
      [2, 3],
      400,
    ],
    ['half nested', [[1, 2, 3], 4, 5, 6], [2, 3], 400],
    ['half flat', [1, 2, 3, [4, 5, 6]], [2, 3], 400],
    [
      'too deep',
      [
        [[1], [2], [3]],
        [[4], [5], [6]],
      ],
      [2, 3],
      400,
    ],
    ['one array around it all', [[1, 2, 3, 4, 5, 6]], [2, 3], 400],
    ['too few', [1, 2, 3], [2, 3], 400],
  ])('takes data flat or nested just as the shape is: %s', async (_, data, shape, status) => {
    const reply = await call(server, 'POST', infer, { inputs: [x(data, shape)] });
    expect([reply.status, reply.text]).toEqual([
      status,
      expect.stringMatching(status === 200 ? /"data"/ : /x/),
    ]);
  });

  it('reads and writes large JSON on another thread, with the same result as small', async () => {
    const rows = 40_000;
    const numbers = Array.from({ length: rows }, (_, i) => i / 7);
    const reply = await call(server, 'POST', infer, { id: 'big', inputs: [x(numbers, [rows, 1])] });
    expect(reply.status).toBe(200);
    const expected = Array.from(Float32Array.from(numbers), (value) => Math.fround(value + 1));
    expect(reply.json).toMatchObject({ id: 'big', model_name: 'plus', outputs: [{ shape: [rows, 1] }] });
    expect(reply.json.outputs[0].data).toEqual(expected);
    const exact = Array.from({ length: rows }, () => '9007199254740993').join(',');
    const body = `{"inputs":[{"name":"x","datatype":"INT64","shape":[${rows}],"data":[${exact}]}]}`;
    expect((await call(server, 'POST', '/v2/models/ints/infer', body)).text).toContain(`"data":[${exact}]`);
    const wrong = await call(server, 'POST', infer, { inputs: [x(numbers, [rows, 2])] });
    expect([wrong.status, wrong.json.error]).toEqual([400, expect.stringMatching(/got 40000 elements/)]);
    expect((await call(server, 'POST', infer, `[${'1,'.repeat(200_000)}`)).status).toBe(400);
  });

  it('refuses JSON over its limit and points to binary data, which may be larger', async () => {
    const count = 600_000;
    const long = await call(server, 'POST', infer, `{"inputs":[${' '.repeat(2_000_000)}]}`);
    expect([long.status, long.json.error]).toEqual([
      413,
      expect.stringMatching(/2000000 bytes.*binary data/),
    ]);
    const input = {
      name: 'x',
      datatype: 'FP32',
      shape: [count, 1],
      parameters: { binary_data_size: 4 * count },
    };
    const head = JSON.stringify({ inputs: [input], parameters: { binary_data_output: true } });
    const reply = await call(
      server,
      'POST',
      infer,
      Buffer.concat([Buffer.from(head), Buffer.alloc(4 * count)]),
      {
        'inference-header-content-length': String(head.length),
      },
    );
    expect([reply.status, reply.bytes.readFloatLE(reply.bytes.length - 4)]).toEqual([200, 1]);
  });

  it('gives classes in place of scores, with their labels', async () => {
    const outputs = [{ name: 'y', parameters: { classification: 2 } }];
    const inputs = [x([0.5, 3, 2, 7, 7, 7], [2, 3])];
    const reply = await call(server, 'POST', infer, { inputs, outputs });
    expect(reply.json.outputs).toEqual([
      {
        name: 'y',
        datatype: 'BYTES',
        shape: [2, 2],
        data: ['4.000000:1:dog', '3.000000:2', '8.000000:0:cat', '8.000000:1:dog'],
      },
    ]);
    const binary = [{ name: 'y', parameters: { classification: 99, binary_data: true } }];
    const bytes = (await call(server, 'POST', infer, { inputs: [x([0.5, 3], [1, 2])], outputs: binary }))
      .bytes;
    expect(bytes.subarray(-18).toString('latin1')).toBe('\x0e\0\0\x001.500000:0:cat');
    const vector = await call(server, 'POST', '/v2/models/ints/infer', {
      inputs: [x([5, 9], [2], 'INT64')],
      outputs: [{ name: 'y', parameters: { classification: 1 } }],
    });
    expect(vector.json.outputs[0]).toMatchObject({ datatype: 'BYTES', shape: [1], data: ['9:1'] });
    for (const classification of [0, -1, 1.5, 'two']) {
      const wrong = [{ name: 'y', parameters: { classification } }];
      expect((await call(server, 'POST', infer, { inputs, outputs: wrong })).status).toBe(400);
    }
  });

  it('names only what it does, and says 501 of the rest', async () => {
    const { extensions } = (await call(server, 'GET', '/v2')).json;
    expect(extensions).toContain('classification');
    expect(extensions.join(' ')).not.toMatch(/shared_memory|trace|logging|sequence/);
    for (const path of [
      '/v2/logging',
      '/v2/trace/setting',
      '/v2/systemsharedmemory/status',
      '/v2/models/plus/trace/setting',
    ])
      expect((await call(server, 'GET', path)).status).toBe(501);
    const wrong = await call(server, 'GET', infer);
    expect([wrong.status, wrong.headers.allow]).toEqual([405, 'POST']);
  });

  it('tells a client that waits whether to go on, and refuses what is too large before it is sent', async () => {
    const head = `POST ${infer} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n`;
    expect(await raw(server, `${head}Content-Length: 99999999999\r\n\r\n`, '"}')).toMatch(/^HTTP\/1.1 413 /);
    expect(await raw(server, `${head}Content-Length: 5\r\nContent-Encoding: br\r\n\r\n`, '"}')).toMatch(
      /^HTTP\/1.1 501 (.|\r\n)*Accept-Encoding: gzip, deflate/i,
    );
    expect(await raw(server, `${head}Content-Length: 5\r\n\r\n`, '\r\n\r\n')).toMatch(
      /^HTTP\/1.1 100 Continue/,
    );
    expect(await raw(server, `${head.replace('infer', 'nothing')}Content-Length: 5\r\n\r\n`, '"}')).toMatch(
      /^HTTP\/1.1 404 /,
    );
    expect(await raw(server, head.replace('100-continue', 'magic').concat('\r\n'), '"}')).toMatch(
      /^HTTP\/1.1 417 /,
    );
  });

  it('answers what is no HTTP with an error of the usual shape, and ends bodies that stop', async () => {
    expect(await raw(server, 'nonsense\r\n\r\n')).toMatch(
      /^HTTP\/1.1 400 (.|\r\n)*\{"error":"the request is no HTTP/,
    );
    expect(await raw(server, `GET /v2 HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`)).toMatch(
      /^HTTP\/1.1 431 (.|\r\n)*headers of the request are too large/,
    );
    expect(await raw(server, `POST ${infer} HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{`)).toMatch(
      /^HTTP\/1.1 408 (.|\r\n)*nothing more of the body came/,
    );
  });

  it('bounds the bytes of all bodies together, and gives them back', async () => {
    const big = (length: number) =>
      `POST ${infer} HTTP/1.1\r\nHost: x\r\nContent-Length: ${length}\r\nExpect: 100-continue\r\n\r\n`;
    const first = connect(server.ports.http, '127.0.0.1', () => first.write(big(2_400_000)));
    await new Promise((resolve) => first.once('data', resolve));
    first.write(Buffer.alloc(2_399_999, 'x'));
    await expect.poll(() => server.plane.bytes.used).toBe(2_399_999);
    const refused = await raw(server, big(700_000), '"}');
    expect(refused).toMatch(/^HTTP\/1.1 503 (.|\r\n)*exceed its limit of 3000000/);
    expect(refused).toMatch(/retry-after: 1/i);
    first.destroy();
    await expect
      .poll(async () => (await raw(server, big(700_000), '\r\n\r\n')).slice(0, 12), { timeout: 5_000 })
      .toBe('HTTP/1.1 100');
    const metrics = await (await request(server.metricsUrl)).body.text();
    expect(metrics).toMatch(/bonsai_requests_refused_total\{model="plus",reason="memory"\} 1/);
  });

  it('takes no room for bytes that were only announced', async () => {
    const head = `POST ${infer} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{`;
    const slow = await Promise.all(
      Array.from({ length: 4 }, async () => {
        const socket = connect(server.ports.http, '127.0.0.1');
        await new Promise((resolve) => socket.write(head, resolve));
        return socket;
      }),
    );
    await expect.poll(() => server.plane.bytes.used).toBe(4);
    expect((await call(server, 'POST', infer, { inputs: [x([1], [1, 1])] })).status).toBe(200);
    for (const socket of slow) socket.destroy();
    await expect.poll(() => server.plane.bytes.used).toBe(0);
  });

  it('logs requests with their trace', async () => {
    const traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
    await call(
      server,
      'POST',
      infer,
      { id: 'traced', inputs: [x([1], [1, 1])] },
      { traceparent, 'x-request-id': 'r7' },
    );
    await expect
      .poll(() => log.find(({ id }) => id === 'traced'))
      .toMatchObject({
        msg: 'request',
        method: 'POST',
        url: infer,
        status: 200,
        version: 1,
        requestId: 'r7',
        traceId: '4bf92f3577b34da6a3ce929d0e0e4736',
        parentSpanId: '00f067aa0ba902b7',
      });
  });

  it('bounds what bodies unfold to', async () => {
    const reply = await call(server, 'POST', infer, gzipSync(Buffer.alloc(100_000_000)), {
      'content-encoding': 'gzip',
    });
    expect([reply.status, reply.json.error]).toEqual([413, expect.stringMatching(/exceeds the maximum/)]);
  });
});

describe('the model repository extension', () => {
  let root: string;
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'bonsai-control-'));
    await write(root, 'plus/1/model.onnx', shifted(1));
    await write(root, 'plus/2/model.onnx', shifted(2));
    await write(root, 'other/1/model.onnx', shifted(5));
  });
  afterAll(() => rm(root, { recursive: true, force: true }));

  const loadPath = (name: string) => `/v2/repository/models/${name}/load`;
  const result = async (server: RunningServer, name: string, version?: number) => {
    const path = `/v2/models/${name}${version === undefined ? '' : `/versions/${version}`}/infer`;
    const reply = await call(server, 'POST', path, { inputs: [x([0], [1, 1])] });
    return reply.status === 200 ? reply.json.outputs[0].data[0] : reply.status;
  };
  const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64');
  const overrides = async () =>
    (await readdir(tmpdir())).filter((name) => name.startsWith('bonsai-override-'));

  it('loads networks that come with the request; they stay until the repository changes or the model is unloaded', async () => {
    // Servers of other tests make such folders, too.
    const temporary = await mkdtemp(join(tmpdir(), 'bonsai-control-files-'));
    vi.stubEnv('TMPDIR', temporary);
    const before = await overrides();
    const server = await start(root);
    try {
      expect(await result(server, 'plus')).toBe(2);
      const files = { 'file:7/model.onnx': base64(shifted(70)) };
      const config = JSON.stringify({ backend: 'onnxruntime', max_batch_size: 0 });
      const load = await call(server, 'POST', loadPath('plus'), { parameters: { config, ...files } });
      expect([load.status, load.text]).toEqual([200, '']);
      expect((await call(server, 'GET', '/v2/models/plus')).json.versions).toEqual(['7']);
      expect([await result(server, 'plus'), await result(server, 'plus', 1)]).toEqual([70, 404]);
      expect((await call(server, 'POST', loadPath('plus'))).status).toBe(200);
      expect(await result(server, 'plus')).toBe(70);
      // A model that the repository does not have at all.
      expect(
        (await call(server, 'POST', loadPath('guest'), { parameters: { config, ...files } })).status,
      ).toBe(200);
      expect(await result(server, 'guest')).toBe(70);
      expect((await overrides()).length).toBe(before.length + 2);
      for (const name of ['plus', 'guest'])
        expect((await call(server, 'POST', `/v2/repository/models/${name}/unload`)).status).toBe(200);
      expect((await overrides()).length).toBe(before.length);
      const policy = JSON.stringify({ version_policy: { specific: { versions: [1] } } });
      expect((await call(server, 'POST', loadPath('plus'), { parameters: { config: policy } })).status).toBe(
        200,
      );
      expect(await result(server, 'plus')).toBe(1);
      // Files without a version policy select among themselves only: after them, what was selected before is again.
      for (let i = 0; i < 2; i++)
        await call(server, 'POST', loadPath('plus'), { parameters: { config, ...files } });
      await call(server, 'POST', loadPath('plus'));
      expect(await result(server, 'plus')).toBe(70);
      await call(server, 'POST', '/v2/repository/models/plus/unload');
      await call(server, 'POST', loadPath('plus'));
      expect(await result(server, 'plus')).toBe(1);
      expect((await call(server, 'POST', loadPath('guest'))).status).toBe(500);
    } finally {
      await server.close();
      vi.unstubAllEnvs();
      await rm(temporary, { recursive: true, force: true });
    }
  });

  it('says why files cannot be written, and goes on', async () => {
    const server = await start(root, { loadModels: ['plus'] });
    vi.stubEnv('TMPDIR', join(root, 'no-such-folder'));
    try {
      const parameters = { config: '{}', 'file:1/model.onnx': 'AA==' };
      const reply = await call(server, 'POST', loadPath('plus'), { parameters });
      expect([reply.status, reply.json.error]).toEqual([
        500,
        expect.stringMatching(/model 'plus': its files cannot be written .* ENOENT: no such file .*TMPDIR/),
      ]);
      expect(await result(server, 'plus')).toBe(2);
    } finally {
      await server.close();
      vi.unstubAllEnvs();
    }
  });

  it.each<[string, Record<string, unknown>, number, RegExp]>([
    ['files without a config', { 'file:1/model.onnx': 'AA==' }, 400, /needs the parameter 'config'/],
    ['no base64', { config: '{}', 'file:1/model.onnx': '§§§§' }, 400, /is no base64/],
    [
      'no network',
      { config: '{}', 'file:1/model.onnx': 'AA==' },
      400,
      /load failed for model 'plus': version 1/,
    ],
    [
      'a path that leads upwards',
      { config: '{}', 'file:../../x/model.onnx': 'AA==' },
      400,
      /must be 'file:<version>/,
    ],
    ['a hidden file', { config: '{}', 'file:1/.profile': 'AA==' }, 400, /must be 'file:<version>/],
    ['a version without its network', { config: '{}', 'file:1/weights.bin': 'AA==' }, 400, /has no 'file:1/],
    ['no string', { config: '{}', 'file:1/model.onnx': 7 }, 400, /not as expected/],
    ['an unknown parameter', { confg: '{}' }, 400, /no parameter 'confg'/],
    ['another backend', { config: '{"backend":"python"}' }, 400, /cannot run on 'python'/],
  ])('refuses %s and leaves everything as it was', async (_, parameters, status, error) => {
    const before = await overrides();
    const server = await start(root, { loadModels: ['plus'] });
    try {
      const reply = await call(server, 'POST', loadPath('plus'), { parameters });
      expect([reply.status, reply.json.error]).toEqual([status, expect.stringMatching(error)]);
      expect(await result(server, 'plus')).toBe(2);
      expect(await overrides()).toEqual(before);
    } finally {
      await server.close();
    }
  });

  it('loads at the start what it is told, and takes no loads unless clients are in control', async () => {
    const explicit = await start(root, {
      modelControl: 'explicit',
      loadModels: ['other'],
      isReadinessStrict: true,
    });
    const none = await start(root, { modelControl: 'none' });
    try {
      const index = (await call(explicit, 'POST', '/v2/repository/index', '')).json;
      expect(index).toEqual([{ name: 'other', version: '1', state: 'READY' }, { name: 'plus' }]);
      expect(await result(explicit, 'plus')).toBe(404);
      expect((await call(explicit, 'POST', loadPath('plus'), {})).status).toBe(200);
      expect(await result(explicit, 'plus')).toBe(2);
      expect((await call(explicit, 'GET', '/v2/health/ready')).status).toBe(200);
      for (const path of [loadPath('plus'), '/v2/repository/models/plus/unload']) {
        const reply = await call(none, 'POST', path);
        expect([reply.status, reply.json.error]).toEqual([
          503,
          expect.stringMatching(/^explicit model load \/ unload is not allowed if polling is enabled/),
        ]);
      }
      const dependents = { parameters: { unload_dependents: true } };
      expect((await call(explicit, 'POST', '/v2/repository/models/plus/unload', dependents)).status).toBe(
        200,
      );
      expect((await call(explicit, 'POST', '/v2/repository/models/plus/unload', '{')).status).toBe(400);
    } finally {
      await explicit.close();
      await none.close();
    }
    await expect(start(root, { loadModels: ['nope'] })).rejects.toThrow(/no task "nope"/);
  });

  it('follows the repository when it polls', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'bonsai-poll-'));
    await write(folder, 'a/1/model.onnx', shifted(1));
    const server = await start(folder, { modelControl: 'poll', pollIntervalMs: 50 });
    const eventually = (name: string) => expect.poll(() => result(server, name), { timeout: 20_000 });
    try {
      expect(await result(server, 'a')).toBe(1);
      await write(folder, 'b/1/model.onnx', shifted(3));
      await eventually('b').toBe(3);
      await write(folder, 'a/1/model.onnx', shifted(4));
      await utimes(join(folder, 'a/1/model.onnx'), 1, 1);
      await eventually('a').toBe(4);
      // A version that was away for a moment comes back, and one that is better takes over.
      await write(folder, 'a/2/model.onnx', shifted(6));
      await eventually('a').toBe(6);
      await rm(join(folder, 'a/2'), { recursive: true });
      await eventually('a').toBe(4);
      await write(folder, 'a/2/model.onnx', shifted(6));
      await eventually('a').toBe(6);
      await rm(join(folder, 'b'), { recursive: true });
      await eventually('b').toBe(404);
    } finally {
      await server.close();
      await rm(folder, { recursive: true });
    }
  });
});

describe('model configurations', () => {
  it('choose the versions of a folder without manifest, warm them up, and are refused where they are damaged', async () => {
    const root = await mkdtemp(join(tmpdir(), 'bonsai-config-'));
    const log: LogLine[] = [];
    await write(root, 'policy/1/model.onnx', shifted(1));
    await write(root, 'policy/2/model.onnx', shifted(2));
    await write(root, 'policy/config.pbtxt', 'version_policy { all {} }');
    await write(root, 'garbage/1/model.onnx', shifted(1));
    await write(root, 'garbage/config.pbtxt', 'name: "x\n\n}}');
    const warmup = (source: string, dims = '3') =>
      `model_warmup [ { name: "first" count: 2 inputs { key: "x" value { data_type: TYPE_INT64 dims: [ ${dims} ] ${source} } } } ]`;
    await write(root, 'warm/1/model.onnx', gather());
    await write(root, 'warm/config.pbtxt', warmup('random_data: true'));
    await write(root, 'file/1/model.onnx', gather());
    await write(root, 'file/config.pbtxt', warmup('input_data_file: "x"', '1'));
    await write(root, 'file/warmup/x', new Uint8Array(BigInt64Array.of(9n).buffer));
    const server = await start(root, { isReadinessStrict: true }, log);
    try {
      expect((await call(server, 'GET', '/v2/models/policy')).json.versions).toEqual(['1', '2']);
      const index = (await call(server, 'POST', '/v2/repository/index')).json;
      const of = (task: string) => index.filter(({ name }: { name: string }) => name === task);
      expect(of('garbage')).toEqual([
        { name: 'garbage', state: 'UNAVAILABLE', reason: expect.stringMatching(/config.pbtxt.*line 1/) },
      ]);
      expect(log).toContainEqual(
        expect.objectContaining({ model: 'garbage', msg: 'the configuration of the task cannot be used' }),
      );
      expect(of('warm')).toEqual([{ name: 'warm', version: '1', state: 'READY' }]);
      // Only the warm-ups were run; none of them counts as a request.
      const { model_stats } = (await call(server, 'GET', '/v2/models/warm/stats')).json;
      expect(model_stats[0].inference_count).toBe(0);
      // The index 9 is out of the table's range.
      expect(of('file')).toEqual([
        expect.objectContaining({ state: 'UNAVAILABLE', reason: expect.stringMatching(/warm-up 'first'/) }),
      ]);
      expect((await call(server, 'GET', '/v2/health/ready')).status).toBe(400);
      const good = JSON.stringify({
        model_warmup: [
          { name: 'zeros', inputs: { x: { data_type: 'TYPE_INT64', dims: [2], zero_data: true } } },
        ],
      });
      const bad = good.replace('[2]', '[2,2]');
      const path = '/v2/repository/models/file/load';
      expect((await call(server, 'POST', path, { parameters: { config: bad } })).json.error).toMatch(
        /warm-up 'zeros': input 'x' has dims \[2, 2\]/,
      );
      expect((await call(server, 'POST', path, { parameters: { config: good } })).status).toBe(200);
      // Where the version serves already, what does not fit is refused all the same, and not kept.
      const late = await call(server, 'POST', path, { parameters: { config: bad } });
      expect([late.status, late.json.error]).toEqual([400, expect.stringMatching(/warm-up 'zeros'/)]);
      expect((await call(server, 'GET', '/v2/models/file/ready')).status).toBe(200);
      await call(server, 'POST', '/v2/repository/models/file/unload');
      expect((await call(server, 'POST', path)).status).toBe(200);
    } finally {
      await server.close();
      await rm(root, { recursive: true });
    }
  });

  it('says nothing of readiness before it gives up a repository of which nothing loads', async () => {
    const root = await mkdtemp(join(tmpdir(), 'bonsai-broken-'));
    const log: LogLine[] = [];
    await write(root, 'torn/1/model.onnx', 'no network');
    await expect(start(root, { mustServe: true }, log)).rejects.toThrow(
      /Nothing in .* can be served:\n {2}torn\/1: /,
    );
    expect(log.map(({ msg }) => msg)).not.toContain('server is ready');
    await rm(root, { recursive: true });
  });
});

describe('tokens and TLS', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'bonsai-tls-'));
    await write(folder, 'models/plus/1/model.onnx', shifted(1));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  it('asks for tokens of inference and of administration', async () => {
    const server = await start(join(folder, 'models'), {
      host: '0.0.0.0',
      tokens: { inference: ['user'], administration: ['root'] },
    });
    const local = { ...server, httpUrl: `http://127.0.0.1:${server.ports.http}` };
    const statusOf = async (method: 'GET' | 'POST', path: string, token?: string) =>
      (
        await call(
          local,
          method,
          path,
          method === 'POST' ? {} : undefined,
          token === undefined ? {} : { authorization: `Bearer ${token}` },
        )
      ).status;
    try {
      for (const path of ['/v2/health/live', '/v2/health/ready', '/v2/models/plus/ready'])
        expect(await statusOf('GET', path)).toBe(200);
      for (const [method, path] of [
        ['GET', '/v2'],
        ['GET', '/v2/models/plus'],
        ['POST', '/v2/repository/index'],
      ] as const) {
        expect(await statusOf(method, path)).toBe(401);
        expect(await statusOf(method, path, 'wrong')).toBe(401);
        expect(await statusOf(method, path, 'user')).toBe(200);
        expect(await statusOf(method, path, 'root')).toBe(200);
      }
      const load = '/v2/repository/models/plus/load';
      expect([
        await statusOf('POST', load),
        await statusOf('POST', load, 'user'),
        await statusOf('POST', load, 'root'),
      ]).toEqual([401, 401, 200]);
      expect(await statusOf('POST', '/v2/models/plus/infer')).toBe(401);
      server.access.replace({ inference: ['next'], administration: ['root'] });
      expect([await statusOf('GET', '/v2', 'user'), await statusOf('GET', '/v2', 'next')]).toEqual([
        401, 200,
      ]);
    } finally {
      await server.close();
    }
    await expect(start(folder, { host: '0.0.0.0', tokens: { inference: ['user'] } })).rejects.toThrow(
      /--admin-token-file/,
    );
  });

  const openssl = ['/usr/bin/openssl', '/usr/local/bin/openssl'].find((path) => existsSync(path));
  it.skipIf(openssl === undefined)('speaks TLS, and shows a new certificate to new connections', async () => {
    const certificate = async (name: string) => {
      const files = { certFile: join(folder, `${name}.crt`), keyFile: join(folder, `${name}.key`) };
      const args = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', `/CN=${name}`];
      execFileSync(openssl!, [...args, '-keyout', files.keyFile, '-out', files.certFile], {
        stdio: 'ignore',
      });
      return files;
    };
    const [first, second] = [await certificate('first'), await certificate('second')];
    const server = await start(join(folder, 'models'), { tls: await readTlsIdentity(first) });
    const shown = () =>
      new Promise<string | string[] | undefined>((resolve, reject) => {
        const socket = connectTls(
          { port: server.ports.http, host: '127.0.0.1', rejectUnauthorized: false },
          () => {
            resolve(socket.getPeerCertificate().subject.CN);
            socket.destroy();
          },
        );
        socket.on('error', reject);
      });
    try {
      expect(server.httpUrl).toMatch(/^https:/);
      expect(
        (await call(server, 'POST', '/v2/models/plus/infer', { inputs: [x([1], [1, 1])] })).json.outputs[0]
          .data,
      ).toEqual([2]);
      expect(await shown()).toBe('first');
      server.setTls(await readTlsIdentity(second));
      expect(await shown()).toBe('second');
      expect((await request(server.metricsUrl, { dispatcher: agent })).statusCode).toBe(200);
    } finally {
      await server.close();
    }
    const mixed = { certFile: first.certFile, keyFile: second.keyFile };
    await expect(readTlsIdentity(mixed)).rejects.toThrow(/no certificate with its private key/);
    await expect(readTlsIdentity({ ...first, keyFile: join(folder, 'none') })).rejects.toThrow(
      /cannot be read/,
    );
    expect((await readFile(first.certFile, 'utf8')).startsWith('-----BEGIN')).toBe(true);
  });
});
