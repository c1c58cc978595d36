import { type ClientHttp2Session, connect as connectHttp2, type IncomingHttpHeaders } from 'node:http2';
import { connect } from 'node:net';
import { deflateSync, gzipSync } from 'node:zlib';
import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { STATUS } from '../src/serve/grpc/errors.ts';
import { frameOf } from '../src/serve/grpc/framing.ts';
import {
  type ModelInferRequest_InferInputTensorSchema,
  ModelInferRequestSchema,
  ModelMetadataRequestSchema,
  ModelStreamInferResponseSchema,
  RepositoryModelLoadRequestSchema,
} from '../src/serve/grpc/inference_pb.ts';
import { type Answer, type Fuzzed, HANG_MS, MAX_BODY_BYTES, SIZE } from './fuzz-server.ts';

/** A call that must be refused, or bytes on a connection of their own. */
type Malformed =
  | {
      readonly kind: 'call';
      readonly path: string;
      readonly headers: Readonly<Record<string, string>>;
      readonly body: Uint8Array;
    }
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array };

type InferInit = MessageInitShape<typeof ModelInferRequestSchema>;
type Input = MessageInitShape<typeof ModelInferRequest_InferInputTensorSchema>;

const SERVICE = '/inference.GRPCInferenceService/';
const INFER = `${SERVICE}ModelInfer`;
const STREAM_INFER = `${SERVICE}ModelStreamInfer`;

/** A flag and a length come before each message. */
const FRAME_PREFIX_BYTES = 5;

const call = (path: string, body: Uint8Array, headers: Readonly<Record<string, string>> = {}): Malformed => ({
  kind: 'call',
  path,
  headers: { 'content-type': 'application/grpc', ...headers },
  body,
});

const input = { name: 'x', datatype: 'FP32', shape: [BigInt(SIZE)] };
const content = new Uint8Array(4 * SIZE);
const validInit: InferInit = { modelName: 'echo', inputs: [input], rawInputContents: [content] };
const encoded = (init: InferInit) =>
  toBinary(ModelInferRequestSchema, create(ModelInferRequestSchema, { ...validInit, ...init }));
const valid = encoded({});
const infer = (init: InferInit) => call(INFER, frameOf(encoded(init)));

const name = fc.string({ maxLength: 20 });
const otherThan = (...texts: string[]) => name.filter((text) => !texts.includes(text));

/** Any bytes as a message: none happens to be a request for the model. */
const garbage = fc.uint8Array({ minLength: 1, maxLength: 300 }).map((bytes) => call(INFER, frameOf(bytes)));

/** Any bytes where a frame was due: its length says something else than what follows. */
const noFrame = fc
  .uint8Array({ minLength: 1, maxLength: 100 })
  .filter((bytes) => Buffer.from(bytes).readUIntBE(0, Math.min(5, bytes.length)) !== bytes.length - 5)
  .map((bytes) => call(INFER, bytes));

const truncated = fc
  .nat(valid.length + 4)
  .map((length) => call(INFER, Buffer.from(frameOf(valid)).subarray(0, length)));

const trailing = fc
  .uint8Array({ minLength: 1, maxLength: 40 })
  .map((bytes) => call(INFER, Buffer.concat([frameOf(valid), bytes])));

const twice = fc.constant(call(INFER, Buffer.concat([frameOf(valid), frameOf(valid)])));

/** Fields that end beyond the message, numbers that never end, groups, tags of no field. */
const wrongWire = fc
  .tuple(
    fc.constantFrom(
      [0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
      [0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
      [0x2a, 0x7f],
      [0x0b],
      [0x0c],
      [0x0e],
      [0x0f],
      [0x00],
      [0x3a, 0x80],
    ),
    fc.boolean(),
  )
  .map(([bytes, isAfter]) =>
    call(INFER, frameOf(isAfter ? Buffer.concat([valid, Buffer.from(bytes)]) : Buffer.from(bytes))),
  );

const wrongInput = fc
  .oneof(
    otherThan('x').map((text): Partial<Input> => ({ name: text })),
    otherThan('FP32').map((datatype): Partial<Input> => ({ datatype })),
    fc.constantFrom('FP16', 'INT64', 'BYTES', 'fp32').map((datatype): Partial<Input> => ({ datatype })),
    fc
      .array(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), { maxLength: 20 })
      .filter((shape) => !(shape.length === 1 && shape[0] === BigInt(SIZE)))
      .map((shape): Partial<Input> => ({ shape })),
    // Both in the message and beside it.
    fc
      .array(fc.float(), { minLength: 1, maxLength: 5 })
      .map((fp32Contents): Partial<Input> => ({ contents: { fp32Contents } })),
  )
  .map((fields) => infer({ inputs: [{ ...input, ...fields } as Input] }));

/** Values of another number or type than the shape takes. */
const wrongContents = fc
  .oneof(
    fc
      .array(fc.float(), { maxLength: 9 })
      .filter((values) => values.length !== SIZE)
      .map((fp32Contents) => ({ fp32Contents })),
    fc.array(fc.integer(), { minLength: 1, maxLength: 9 }).map((intContents) => ({ intContents })),
    fc.array(fc.uint8Array(), { minLength: 1, maxLength: 5 }).map((bytesContents) => ({ bytesContents })),
    fc.array(fc.boolean(), { minLength: 1, maxLength: 9 }).map((boolContents) => ({ boolContents })),
  )
  .map((contents) => infer({ inputs: [{ ...input, contents }], rawInputContents: [] }));

const wrongRaw = fc
  .oneof(
    fc
      .uint8Array({ maxLength: 64 })
      .filter((bytes) => bytes.length !== content.length)
      .map((bytes) => [bytes]),
    fc.array(fc.constant(content), { minLength: 2, maxLength: 5 }),
  )
  .map((rawInputContents) => infer({ rawInputContents }));

const parameter = (value: bigint | string | boolean | number) =>
  typeof value === 'bigint'
    ? ({ parameterChoice: { case: 'int64Param', value } } as const)
    : typeof value === 'string'
      ? ({ parameterChoice: { case: 'stringParam', value } } as const)
      : typeof value === 'boolean'
        ? ({ parameterChoice: { case: 'boolParam', value } } as const)
        : ({ parameterChoice: { case: 'doubleParam', value } } as const);

const wrongRequest = fc
  .oneof(
    otherThan('echo').map((modelName): InferInit => ({ modelName })),
    name
      .filter((version) => version !== '' && version !== '1')
      .map((modelVersion): InferInit => ({ modelVersion })),
    fc.constant<InferInit>({ inputs: [], rawInputContents: [] }),
    fc.constant<InferInit>({ inputs: [input, input], rawInputContents: [content, content] }),
    otherThan('y').map((text): InferInit => ({ outputs: [{ name: text }] })),
    fc.oneof(fc.bigInt({ min: -(2n ** 60n), max: 0n }), name, fc.boolean()).map(
      (count): InferInit => ({
        outputs: [{ name: 'y', parameters: { classification: parameter(count) } }],
      }),
    ),
    fc
      .oneof(fc.bigInt({ min: -(2n ** 60n), max: -1n }), fc.boolean())
      .map((timeout): InferInit => ({ parameters: { timeout: parameter(timeout) } })),
    name.map((text): InferInit => ({ parameters: { [`triton_${text}`]: parameter(1n) } })),
    fc.string().map(
      (region): InferInit => ({
        inputs: [{ ...input, parameters: { shared_memory_region: parameter(region) } }],
        rawInputContents: [],
      }),
    ),
  )
  .map(infer);

/** Said to be compressed and not, cut short, by an unknown method, or too large once unfolded. */
const compressed = fc
  .tuple(
    fc.constantFrom('gzip', 'deflate', 'snappy', 'br', 'identity'),
    fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
    fc.uint8Array({ maxLength: 100 }),
    fc.nat(2),
  )
  .map(([encoding, part, bytes, kind]) => {
    const squeeze = encoding === 'deflate' ? deflateSync : gzipSync;
    const whole = squeeze(kind === 2 ? Buffer.alloc(2 * MAX_BODY_BYTES) : valid);
    const message =
      kind === 0 ? whole.subarray(0, Math.floor(whole.length * part)) : kind === 1 ? bytes : whole;
    const frame = Buffer.from(frameOf(message));
    frame[0] = 1;
    return call(INFER, frame, { 'grpc-encoding': encoding });
  });

const tooLarge = fc
  .integer({ min: 1, max: 50_000 })
  .map((more) => call(INFER, frameOf(new Uint8Array(MAX_BODY_BYTES + more))));

const method = fc
  .tuple(
    fc.constantFrom(SERVICE, '/inference.GRPCInferenceServic/', '/grpc.health.v1.Health/', '/', '//', '/../'),
    fc.oneof(
      fc.constantFrom('modelinfer', 'ModelInfer/', 'ModelInfer%00', '..%2f..%2fetc%2fpasswd', ''),
      fc.stringMatching(/^[A-Za-z%.~]{0,20}$/),
    ),
  )
  .filter(
    ([service, text]) =>
      !(service === SERVICE && /^[A-Z]/.test(text)) && text !== 'Check' && text !== 'Watch',
  )
  .map(([service, text]) => call(service + text, frameOf(valid)));

const noGrpc = fc
  .oneof(
    fc
      .constantFrom('application/json', 'text/html', 'application/grpc-web', 'application/grpcx', '')
      .map((type) => ({
        'content-type': type,
      })),
    fc.constantFrom('GET', 'PUT', 'DELETE', 'HEAD').map((verb) => ({ ':method': verb })),
  )
  .map((headers) => call(INFER, frameOf(valid), headers));

const wrongMetadata = otherThan('echo').map((text) =>
  call(
    `${SERVICE}ModelMetadata`,
    frameOf(toBinary(ModelMetadataRequestSchema, create(ModelMetadataRequestSchema, { name: text }))),
  ),
);

/** Networks that are not there, paths out of the repository, configurations that are none. */
const wrongLoad = fc
  .oneof(
    fc
      .array(fc.constantFrom('..', '.', 'echo', 'etc', '/', '\0', '%2f'), { minLength: 1, maxLength: 5 })
      .map((parts) => ({ modelName: `../${parts.join('/')}` })),
    fc
      .string()
      .filter((text) => !text.trim().startsWith('{'))
      .map((value) => ({
        modelName: 'echo',
        parameters: { config: { parameterChoice: { case: 'stringParam', value } } } as const,
      })),
    fc.bigInt({ min: 0n, max: 9n }).map((value) => ({
      modelName: 'echo',
      parameters: { config: { parameterChoice: { case: 'int64Param', value } } } as const,
    })),
  )
  .map((init) =>
    call(
      `${SERVICE}RepositoryModelLoad`,
      frameOf(toBinary(RepositoryModelLoadRequestSchema, create(RepositoryModelLoadRequestSchema, init))),
    ),
  );

/** Messages on a stream that cannot be read at all. */
const wrongStream = fc
  .oneof(
    fc
      .constantFrom([0x0a, 0xff, 0xff, 0x0f], [0x0b], [0x00], [0x3a, 0x80])
      .map((bytes) => frameOf(Buffer.from(bytes))),
    fc.nat({ max: valid.length + 3 }).map((length) => Buffer.from(frameOf(valid)).subarray(0, length + 1)),
  )
  .map((body) => call(STREAM_INFER, body));

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');

/** Bytes that are no HTTP/2, and frames of HTTP/2 that contradict it. */
const wrongBytes = fc
  .oneof(
    fc.uint8Array({ minLength: 24, maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
    fc
      .constantFrom('GET / HTTP/1.1\r\nHost: x\r\n\r\n', `${'x'.repeat(24)}\r\n\r\n`)
      .map((text) => Buffer.from(text)),
    // A SETTINGS frame is due first; of it, no part of 6 bytes.
    fc
      .tuple(fc.constantFrom(0x0, 0x1, 0x2, 0x3, 0x5, 0x9), fc.uint8Array({ maxLength: 40 }))
      .map(([type, bytes]) =>
        Buffer.concat([PREFACE, Buffer.from([0, 0, bytes.length, type, 0, 0, 0, 0, 0]), bytes]),
      ),
    fc
      .integer({ min: 1, max: 5 })
      .map((length) =>
        Buffer.concat([PREFACE, Buffer.from([0, 0, length, 4, 0, 0, 0, 0, 0]), Buffer.alloc(length)]),
      ),
    // Headers that HPACK does not know.
    fc.uint8Array({ minLength: 1, maxLength: 60 }).map((bytes) => {
      const settings = Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]);
      const head = Buffer.from([0, 0, bytes.length + 2, 1, 5, 0, 0, 0, 1]);
      return Buffer.concat([PREFACE, settings, head, Buffer.from([0xff, 0xff]), bytes]);
    }),
  )
  .map((bytes): Malformed => ({ kind: 'bytes', bytes }));

const malformed: fc.Arbitrary<Malformed> = fc.oneof(
  garbage,
  noFrame,
  truncated,
  trailing,
  twice,
  wrongWire,
  wrongInput,
  wrongContents,
  wrongRaw,
  wrongRequest,
  compressed,
  tooLarge,
  method,
  noGrpc,
  wrongMetadata,
  wrongLoad,
  wrongStream,
  wrongBytes,
);

/** What tells a client that it is at fault; the last in an answer on a stream. */
const REFUSALS: ReadonlySet<string> = new Set([
  'INVALID_ARGUMENT',
  'NOT_FOUND',
  'UNIMPLEMENTED',
  'RESOURCE_EXHAUSTED',
  'HTTP 405',
  'HTTP 415',
  'error_message',
]);
const NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(STATUS).map(([text, number]) => [number, text]),
);

/** gRPC calls that are all wrong by construction, each to be refused; bytes that are no HTTP/2 end their connection. */
export const fuzzedGrpc: Fuzzed<Malformed> = {
  protocol: 'gRPC',
  malformed,
  open({ ports }) {
    let session: ClientHttp2Session | undefined;
    const connected = () => {
      if (session === undefined || session.closed || session.destroyed) {
        session = connectHttp2(`http://127.0.0.1:${ports.grpc}`);
        session.on('error', () => undefined);
      }
      return session;
    };
    return {
      ask: (sample) =>
        sample.kind === 'bytes' ? askRaw(ports.grpc!, sample.bytes) : ask(connected(), sample),
      async isServed() {
        const sample = { kind: 'call', path: INFER, body: frameOf(valid) } as const;
        const { status } = await ask(connected(), {
          ...sample,
          headers: { 'content-type': 'application/grpc' },
        });
        return status === 'OK';
      },
      close: () => session?.destroy(),
    };
  },
};

function ask(session: ClientHttp2Session, sample: Extract<Malformed, { kind: 'call' }>): Promise<Answer> {
  return new Promise((resolve) => {
    const hasBody = !['GET', 'HEAD'].includes(sample.headers[':method'] ?? 'POST');
    const stream = session.request(
      { ':method': 'POST', ':path': sample.path, ...sample.headers },
      { endStream: !hasBody },
    );
    let status: string | undefined;
    let text = '';
    const read = (head: IncomingHttpHeaders) => {
      const code = head['grpc-status'];
      if (code !== undefined) status = NAMES.get(Number(code)) ?? `gRPC ${code}`;
      else if (head[':status'] !== undefined && Number(head[':status']) !== 200)
        status = `HTTP ${head[':status']}`;
      text = String(head['grpc-message'] ?? text);
    };
    stream.on('response', read);
    stream.on('trailers', read);
    stream.on('error', (error) => {
      text = String(error);
    });
    const chunks: Buffer[] = [];
    stream.on('data', (chunk) => chunks.push(chunk));
    stream.on('close', () => {
      if (status === 'OK' && tellsError(sample.path, Buffer.concat(chunks))) status = 'error_message';
      resolve({ status: status ?? 'none', text, isRefusal: status !== undefined && REFUSALS.has(status) });
    });
    stream.setTimeout(HANG_MS, () => stream.close());
    if (hasBody) stream.end(sample.body);
  });
}

/** Whether the first answer on a stream is an error: the stream itself goes on, and ends well. */
function tellsError(path: string, body: Buffer): boolean {
  if (path !== STREAM_INFER) return false;
  if (body.length < FRAME_PREFIX_BYTES) return false;
  const end = FRAME_PREFIX_BYTES + body.readUInt32BE(1);
  const message = fromBinary(ModelStreamInferResponseSchema, body.subarray(FRAME_PREFIX_BYTES, end));
  return message.errorMessage !== '';
}

/** The server must end the connection, or say that it is over: a client that is told GOAWAY closes it. */
function askRaw(port: number, bytes: Uint8Array): Promise<Answer> {
  return new Promise((resolve) => {
    let received = Buffer.alloc(0);
    let status = 'closed';
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true }, () => socket.write(bytes));
    socket.setTimeout(HANG_MS, () => {
      status = 'none';
      socket.destroy();
    });
    socket.on('data', (chunk) => {
      received = Buffer.concat([received, chunk]);
      if (!hasGoaway(received)) return;
      status = 'GOAWAY';
      socket.destroy();
    });
    socket.on('error', () => undefined);
    socket.on('end', () => socket.destroy());
    socket.on('close', () => resolve({ status, text: '', isRefusal: status !== 'none' }));
  });
}

const FRAME_HEAD_BYTES = 9;
const GOAWAY = 0x7;

/** Whether a whole frame of this type is among those received (RFC 9113, section 4.1). */
function hasGoaway(received: Buffer): boolean {
  for (let at = 0; at + FRAME_HEAD_BYTES <= received.length; ) {
    const end = at + FRAME_HEAD_BYTES + received.readUIntBE(at, 3);
    if (received[at + 3] === GOAWAY && end <= received.length) return true;
    at = end;
  }
  return false;
}
