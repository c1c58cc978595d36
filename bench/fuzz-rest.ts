import { connect } from 'node:net';
import { deflateSync, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { Agent } from 'undici';
import { type Answer, CONCURRENCY, type Fuzzed, HANG_MS, SIZE } from './fuzz-server.ts';

const INFER = '/v2/models/echo/infer';
const LOAD = '/v2/repository/models/echo/load';

/** A request that must be refused: over an HTTP client, or as bytes on a connection of its own. */
type Malformed =
  | {
      readonly kind: 'http';
      readonly method: 'GET' | 'POST' | 'PUT' | 'DELETE' | 'PATCH';
      readonly path: string;
      readonly headers: Readonly<Record<string, string>>;
      readonly body: string | Uint8Array;
    }
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array };

const post = (
  path: string,
  body: string | Uint8Array,
  headers: Readonly<Record<string, string>> = {},
): Malformed => ({
  kind: 'http',
  method: 'POST',
  path,
  headers,
  body,
});

const validInput = { name: 'x', datatype: 'FP32', shape: [SIZE], data: [1, 2, 3] };
const validBody = JSON.stringify({
  id: 'a',
  inputs: [validInput],
  outputs: [{ name: 'y' }],
  parameters: { p: 1 },
});

/** Any JSON that is no inference request: it has no inputs for the model. */
const foreignJson = fc.json({ maxDepth: 6 }).map((body) => post(INFER, body));

const garbage = fc.uint8Array({ maxLength: 300 }).map((bytes) => post(INFER, bytes));

/** The beginning of an object is no JSON. */
const truncated = fc.nat(validBody.length - 1).map((end) => post(INFER, validBody.slice(0, end)));

/** Whatever follows a whole document, other than white space, is too much. */
const trailing = fc
  .string({ minLength: 1, maxLength: 20 })
  .filter((text) => text.trim() !== '')
  .map((text) => post(INFER, validBody + text));

const deep = fc
  .tuple(fc.integer({ min: 33, max: 5000 }), fc.constantFrom('[', '{"a":'))
  .map(([depth, open]) => post(INFER, open.repeat(depth)));

const notOf = (...types: string[]) =>
  fc
    .jsonValue()
    .filter(
      (value) => !types.includes(Array.isArray(value) ? 'array' : value === null ? 'null' : typeof value),
    );

/** One field of the input that cannot be as it is. */
const wrongField = fc.oneof(
  fc
    .oneof(notOf('string'), fc.string())
    .filter((name) => name !== 'x')
    .map((name) => ({ name })),
  fc
    .oneof(notOf('string'), fc.string(), fc.constantFrom('FP31', 'INT64', 'BYTES', 'BOOL', 'FP16', 'fp32'))
    .filter((datatype) => datatype !== 'FP32')
    .map((datatype) => ({ datatype })),
  fc
    .oneof(
      notOf('array'),
      fc.array(fc.oneof(fc.integer(), fc.double(), fc.maxSafeInteger(), fc.constant(null), fc.constant('3'))),
    )
    .filter((shape) => !(Array.isArray(shape) && shape.length === 1 && shape[0] === SIZE))
    .map((shape) => ({ shape })),
  fc
    .oneof(
      notOf('array'),
      fc
        .array(fc.oneof(fc.integer(), fc.jsonValue()), { maxLength: 12 })
        .filter((data) => data.length !== SIZE || data.some((value) => typeof value !== 'number')),
    )
    .map((data) => ({ data })),
  notOf('object').map((parameters) => ({ parameters })),
  fc.oneof(notOf('number'), fc.integer({ max: -1 }), fc.nat(1000)).map((size) => ({
    parameters: { binary_data_size: size },
  })),
  fc.string().map((region) => ({ parameters: { binary_data_size: 12, x: region }, data: undefined })),
);
const wrongInput = wrongField.map((field) =>
  post(INFER, JSON.stringify({ inputs: [{ ...validInput, ...field }] })),
);

const wrongRequest = fc
  .oneof(
    notOf('array').map((inputs) => ({ inputs })),
    fc.constantFrom([], [validInput, validInput]).map((inputs) => ({ inputs })),
    notOf('string').map((id) => ({ id })),
    notOf('array').map((outputs) => ({ outputs })),
    fc
      .oneof(
        notOf('object'),
        fc.record({
          name: fc.oneof(
            notOf('string'),
            fc.string().filter((name) => name !== 'y'),
          ),
        }),
      )
      .map((output) => ({ outputs: [output] })),
    notOf('object').map((parameters) => ({ parameters })),
    fc.string().map((name) => ({ parameters: { [`triton_${name}`]: 1 } })),
    fc.oneof(notOf('number'), fc.integer({ max: -1 })).map((timeout) => ({ parameters: { timeout } })),
    notOf('boolean').map((binary) => ({ parameters: { binary_data_output: binary } })),
    notOf('string', 'number').map((priority) => ({ parameters: { priority } })),
    fc.oneof(notOf('number'), fc.integer({ max: 0 })).map((classification) => ({
      outputs: [{ name: 'y', parameters: { classification } }],
    })),
  )
  .map((fields) => post(INFER, JSON.stringify({ inputs: [validInput], ...fields })));

/** The header that tells JSON from binary data, wrong for the body. */
const headerLength = fc
  .oneof(
    fc.integer({ min: validBody.length + 1 }).map(String),
    fc.integer({ max: -1 }).map(String),
    fc.nat(validBody.length - 1).map(String), // Also 0: as a raw request, the body is no multiple of what x takes.
    fc.stringMatching(/^[a-z.,+ ]{1,12}$/).filter((text) => text.trim() !== ''),
    fc.constantFrom('1e2', '0x10', '12 13', '١٢'.normalize().replace(/./g, 'x'), '99999999999999999999'),
  )
  .map((value) => post(INFER, validBody, { 'inference-header-content-length': value }));

/** Binary data that are not as long as what was announced, or not what the shape takes. */
const binary = fc
  .tuple(fc.nat(64), fc.nat(64))
  .filter(([size, length]) => size !== length || size !== 4 * SIZE)
  .map(([size, length]) => {
    const input = { name: 'x', datatype: 'FP32', shape: [SIZE], parameters: { binary_data_size: size } };
    const head = Buffer.from(JSON.stringify({ inputs: [input] }));
    return post(INFER, Buffer.concat([head, Buffer.alloc(length)]), {
      'inference-header-content-length': String(head.length),
    });
  });

/** Cut short, not compressed at all, or too large for the server once unfolded. */
const compressed = fc
  .tuple(
    fc.constantFrom('gzip', 'deflate'),
    fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
    fc.uint8Array({ maxLength: 100 }),
    fc.nat(2),
  )
  .map(([encoding, part, bytes, kind]) => {
    const squeeze = encoding === 'gzip' ? gzipSync : deflateSync;
    const whole = squeeze(kind === 2 ? Buffer.alloc(200_000) : validBody);
    const body = kind === 0 ? whole.subarray(0, Math.floor(whole.length * part)) : kind === 1 ? bytes : whole;
    return post(INFER, body, { 'content-encoding': encoding });
  });

/** Segments of paths: none names a model that is there, or an extension that is answered by 501. */
const segment = fc.oneof(
  fc.constantFrom(
    'models',
    'versions',
    '1',
    '0',
    'abc',
    'infer',
    'ready',
    'config',
    'stats',
    'load',
    'index',
  ),
  fc.constantFrom(
    '..',
    '.',
    '%2e%2e',
    '%2f',
    '%00',
    '%zz',
    '..%2f..%2fetc%2fpasswd',
    '',
    '%c0%ae',
    '~',
    'nope',
  ),
  fc.string({ maxLength: 12 }).map(encodeURIComponent),
);
const path = fc
  .tuple(
    fc.constantFrom(
      '/v2/models/nope',
      '/v2/models/nope/versions',
      '/v2/modls',
      '/v1/models',
      '/v2/health/nope',
      '/v3',
    ),
    fc.array(segment, { minLength: 1, maxLength: 6 }),
    fc.constantFrom('GET', 'POST', 'PUT', 'DELETE', 'PATCH'),
  )
  .map(
    ([start, segments, method]): Malformed => ({
      kind: 'http',
      method: method as 'GET', // One of those of the type.
      path: `${start}/${segments.join('/')}`,
      headers: {},
      body: '',
    }),
  );
const upwards = fc
  .array(segment, { maxLength: 4 })
  .map((segments) =>
    post(`/v2/repository/models/${encodeURIComponent(`../${segments.join('/')}`)}/load`, '{}'),
  );

const wrongLoad = fc
  .oneof(
    notOf('object').map((parameters) => ({ parameters })),
    notOf('string').map((config) => ({ parameters: { config } })),
    fc
      .string()
      .filter((text) => !isObject(text))
      .map((config) => ({ parameters: { config } })),
    fc.string().map((name) => ({ parameters: { config: '{}', [`file:${name}`]: 'AAAA' } })),
    fc
      .constantFrom('python', 'tensorrt', '')
      .filter((name) => name !== '')
      .map((backend) => ({
        parameters: { config: JSON.stringify({ backend }) },
      })),
    fc.nat(9).map((version) => ({
      parameters: { config: JSON.stringify({ version_policy: { specific: { versions: [version + 2] } } }) },
    })),
  )
  .map((body) => post(LOAD, JSON.stringify(body)));

function isObject(text: string): boolean {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}

/** Bytes that are no HTTP: what stands for the method is none. */
const noHttp = fc
  .tuple(
    fc.constantFrom('\x16\x03\x01', '\x00', '{"', 'G3T ', 'POST', '/ ', 'get '),
    fc.uint8Array({ maxLength: 200 }),
  )
  .map(
    ([start, rest]): Malformed => ({
      kind: 'bytes',
      bytes: Buffer.concat([Buffer.from(`${start}\u0001`, 'latin1'), rest, Buffer.from('\r\n\r\n')]),
    }),
  );

/** Heads that contradict themselves or HTTP. */
const wrongHead = fc
  .constantFrom(
    'Content-Length: 5\r\nContent-Length: 6',
    'Content-Length: -1',
    'Content-Length: 1x',
    'Content-Length: 5\r\nTransfer-Encoding: chunked',
    'Content-Length: 99999999999',
    'No Colon Here',
    `X: ${'x'.repeat(20_000)}`,
    'Transfer-Encoding: chunked\r\n\r\nzz\r\nxx\r\n0',
    'Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\nxx',
    'Expect: something\r\nContent-Length: 0',
  )
  .map(
    (head): Malformed => ({
      kind: 'bytes',
      bytes: Buffer.from(`POST ${INFER} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${head}\r\n\r\n`),
    }),
  );

/** Every generator as often as the others. */
const malformed: fc.Arbitrary<Malformed> = fc.oneof(
  foreignJson,
  garbage,
  truncated,
  trailing,
  deep,
  wrongInput,
  wrongRequest,
  headerLength,
  binary,
  compressed,
  path,
  upwards,
  wrongLoad,
  noHttp,
  wrongHead,
);

/** REST requests that are all wrong by construction, each to be answered by a 4xx with {"error": …}. */
export const fuzzedRest: Fuzzed<Malformed> = {
  protocol: 'REST',
  malformed,
  open({ ports }) {
    const agent = new Agent({ connections: CONCURRENCY, headersTimeout: HANG_MS, bodyTimeout: HANG_MS });
    return {
      ask: (sample) => ask(ports.http, agent, sample),
      async isServed() {
        const answer = await ask(ports.http, agent, post(INFER, validBody));
        return answer.status === '200';
      },
      close: () => agent.destroy(),
    };
  },
};

async function ask(port: number, agent: Agent, sample: Malformed): Promise<Answer> {
  if (sample.kind === 'bytes') return askRaw(port, sample.bytes);
  const { method, path: target, headers, body } = sample;
  try {
    const hasBody = method !== 'GET';
    const reply = await agent.request({
      origin: `http://127.0.0.1:${port}`,
      method,
      path: target,
      headers,
      body: hasBody ? body : null,
    });
    return answerOf(reply.statusCode, await reply.body.text());
  } catch (thrown) {
    return answerOf(-1, String(thrown));
  }
}

function askRaw(port: number, bytes: Uint8Array): Promise<Answer> {
  return new Promise((resolve) => {
    let text = '';
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true }, () => socket.end(bytes));
    socket.setTimeout(HANG_MS, () => socket.destroy(new Error('no answer')));
    socket.on('data', (chunk) => {
      text += chunk;
    });
    socket.on('error', (error) => {
      if (text === '') resolve(answerOf(-1, String(error)));
    });
    socket.on('close', () => {
      const [, status, body] = /^HTTP\/1\.1 (\d{3}) (?:.|\r\n)*?\r\n\r\n(.*)$/s.exec(text) ?? [];
      resolve(answerOf(Number(status ?? 0), body ?? text));
    });
  });
}

/** @param status 0: the connection was closed without an answer; -1: none came in time */
function answerOf(status: number, text: string): Answer {
  return {
    status: String(status),
    text,
    isRefusal: status >= 400 && status < 500 && text.startsWith('{"error":"'),
  };
}
