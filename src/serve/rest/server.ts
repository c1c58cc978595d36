import {
  createServer,
  type IncomingMessage,
  type Server,
  type ServerOptions,
  type ServerResponse,
} from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { Socket } from 'node:net';
import { promisify } from 'node:util';
import { deflate, gzip } from 'node:zlib';
import type { Logger } from 'pino';
import { messageOf } from '../../base/errors.ts';
import { elementCount } from '../../base/tensor.ts';
import type { Target } from '../../repository/types.ts';
import { Holding } from '../byte-budget.ts';
import { withClasses } from '../classification.ts';
import type { InferAnswer, RequestPlane } from '../data-plane.ts';
import { RefusedError } from '../errors.ts';
import type { Json } from '../json.ts';
import type { Limits } from '../limits.ts';
import { loadModel } from '../load-request.ts';
import { modelMetadata, serverMetadata } from '../metadata.ts';
import { modelConfig } from '../model-configuration.ts';
import type { ModelRegistry } from '../model-registry.ts';
import { modelStatistics } from '../model-statistics.ts';
import { mayHaveWishes } from '../request-parameters.ts';
import type { TlsIdentity } from '../safety/tls.ts';
import type { Access, Permission } from '../safety/tokens.ts';
import type { ServedModel } from '../served-model.ts';
import { ACCEPTED_ENCODINGS, type BodyRules, readBody } from './body.ts';
import { HttpError, MethodNotAllowedError, statusOf } from './errors.ts';
import {
  type AnswerFormat,
  classesOf,
  type EncodedInfer,
  encodeInfer,
  type InferDocument,
  type InferTarget,
  inferOf,
  jsonLengthOf,
  readDocument,
  targetOf,
} from './infer.ts';
import { INLINE_JSON_BYTES, INLINE_JSON_ELEMENTS, JsonThread } from './json-thread.ts';
import { jsonBody, loadParametersOf, repositoryIndex, unloadModel } from './repository.ts';
import { logRequest } from './request-log.ts';
import { type Route, routeOf } from './routes.ts';

/** What the handlers translate to and from. */
export interface RestContext {
  readonly models: ModelRegistry;
  readonly plane: RequestPlane;
  readonly limits: Limits;
  readonly slots: number;
  /** What this server runs on. */
  readonly target: Target;
  readonly logger: Logger;
  /** Whether the server takes requests: all tasks are loaded and it is not stopping. */
  readonly isReady: () => boolean;
  readonly access: Access;
  /** Writes a line for each request to the log. */
  readonly logsRequests?: boolean;
  /** Undefined: plain HTTP. */
  readonly tls?: TlsIdentity;
  /** Keeps the requests that are being handled, each with what resolves when it has its answer. */
  readonly handling?: Map<IncomingMessage, Promise<void>>;
}

/** A request on its way through the handlers. */
interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly holding: Holding;
  /** The client waits to be told before it sends its body. */
  awaitsContinue: boolean;
  /** The identifier that the client gave its inference. */
  id?: string;
  version?: number;
}

interface Handlers extends RestContext {
  readonly json: JsonThread;
}

/** How often Node.js looks for connections whose headers or bodies take too long; its default is 30 s. */
const CONNECTIONS_CHECK_MS = 1_000;

/** The Open Inference Protocol over HTTP or HTTPS, not yet listening. */
export function createRestServer(context: RestContext): Server {
  const { limits, tls } = context;
  const options: ServerOptions = {
    headersTimeout: limits.headersTimeoutMs,
    requestTimeout: limits.requestTimeoutMs,
    keepAliveTimeout: limits.keepAliveTimeoutMs,
    maxHeaderSize: limits.maxHeaderBytes,
    connectionsCheckingInterval: CONNECTIONS_CHECK_MS,
    noDelay: true,
  };
  const server: Server =
    tls === undefined
      ? createServer(options)
      : createTlsServer({
          ...options,
          cert: tls.cert,
          key: tls.key,
          handshakeTimeout: limits.headersTimeoutMs,
        });
  const handlers: Handlers = { ...context, json: new JsonThread() };
  server.on('request', (request, response) => serve(handlers, request, response, false));
  server.on('checkContinue', (request, response) => serve(handlers, request, response, true));
  server.on('checkExpectation', (request, response) => {
    const thrown = new HttpError(417, "the only expectation that is met is '100-continue'");
    answerError(handlers, exchangeOf(handlers, request, response, true), thrown);
  });
  server.on('clientError', refuseConnection);
  server.on('close', () => void handlers.json.close());
  server.maxConnections = limits.maxConnections;
  server.timeout = limits.idleConnectionTimeoutMs;
  return server;
}

function serve(
  context: Handlers,
  request: IncomingMessage,
  response: ServerResponse,
  awaitsContinue: boolean,
): void {
  // A server that stops (or starts) does not keep a client's connection for a next request.
  if (!context.isReady()) response.shouldKeepAlive = false;
  const exchange = exchangeOf(context, request, response, awaitsContinue);
  if (context.logsRequests) {
    logRequest(context.logger, request, response, () => ({ id: exchange.id, version: exchange.version }));
  }
  const answered = handle(context, exchange)
    .catch((thrown: unknown) => answerError(context, exchange, thrown))
    .finally(() => {
      exchange.holding.release();
      context.handling?.delete(request);
    });
  context.handling?.set(request, answered);
}

function exchangeOf(
  context: RestContext,
  request: IncomingMessage,
  response: ServerResponse,
  awaitsContinue: boolean,
): Exchange {
  return { request, response, holding: new Holding(context.plane.bytes), awaitsContinue };
}

async function handle(context: Handlers, exchange: Exchange): Promise<void> {
  const { request, response } = exchange;
  const route = routeOf(request.method, request.url ?? '');
  checkAccess(context, permissionFor(route), request);
  switch (route.kind) {
    case 'infer':
      return infer(context, route, exchange);
    case 'live':
      return send(response, 200);
    case 'ready':
      return send(response, context.isReady() ? 200 : 400);
    case 'server_metadata':
      return sendJson(response, serverMetadata(context.target));
    case 'model_metadata':
      return sendJson(response, modelMetadata(context.models.get(route.model), route.version));
    case 'model_ready':
      return modelReady(context, route, response);
    case 'config':
      return sendJson(response, modelConfig(context.models.get(route.model), route.version, context.slots));
    case 'statistics':
      return sendJson(response, modelStatistics(context.models, route.model, route.version));
    case 'all_statistics':
      return sendJson(response, modelStatistics(context.models));
    case 'index':
      return sendJson(
        response,
        await repositoryIndex(context.models, await administrativeBody(context, exchange)),
      );
    case 'load':
      context.models.checkControl();
      await loadModel(
        context.models,
        route.model,
        loadParametersOf(await administrativeBody(context, exchange)),
        context.slots,
      );
      return send(response, 200);
    case 'unload':
      context.models.checkControl();
      await unloadModel(context.models, route.model, await administrativeBody(context, exchange));
      return send(response, 200);
    default:
      route satisfies never;
  }
}

/** Probes need no token: they tell nothing but whether the server is up. */
function permissionFor(route: Route): Permission | undefined {
  switch (route.kind) {
    case 'live':
    case 'ready':
    case 'model_ready':
      return undefined;
    case 'load':
    case 'unload':
      return 'administration';
    default:
      return 'inference';
  }
}

/** @throws HttpError 401 unless the request bears a token that is enough */
function checkAccess(
  { access }: RestContext,
  permission: Permission | undefined,
  request: IncomingMessage,
): void {
  if (permission === undefined || access.allows(permission, request.headers.authorization)) return;
  throw new HttpError(
    401,
    permission === 'administration'
      ? "loading and unloading need 'Authorization: Bearer' with the administrator's token"
      : "this server needs 'Authorization: Bearer' with a token",
  );
}

function rulesFor({ limits }: RestContext, exchange: Exchange): BodyRules {
  return {
    maxBytes: limits.maxBodyBytes,
    idleTimeoutMs: limits.bodyIdleTimeoutMs,
    holding: exchange.holding,
    proceed: exchange.awaitsContinue
      ? () => {
          exchange.awaitsContinue = false;
          exchange.response.writeContinue();
        }
      : undefined,
  };
}

/** The JSON of a request that is no inference; `{}` where it has no body. */
async function administrativeBody(context: Handlers, exchange: Exchange): Promise<Json> {
  const body = await readBody(exchange.request, rulesFor(context, exchange));
  return jsonBody(body, (large, maxDepth) => context.json.run({ kind: 'value', body: large, maxDepth }));
}

interface VersionedName {
  readonly model: string;
  readonly version: number | undefined;
}

async function infer(context: Handlers, route: VersionedName, exchange: Exchange): Promise<void> {
  const { response } = exchange;
  const { plane } = context;
  const { version } = route;
  const model = context.models.get(route.model);
  const body = await bodyOf(context, model, version, exchange).catch(countUndecoded(model));
  if (plane.hasWaiting && !mayHaveWishes(body.bytes.subarray(0, body.jsonLength)))
    plane.checkAdmission({ model, version });
  const document = await documentOf(context, targetOf(model, version), body, exchange).catch(
    countUndecoded(model),
  );
  exchange.id = document.id;
  const decoded = inferOf(model, version, document);
  const submission = plane.submit(decoded.request);
  const onClose = () => submission.cancel();
  response.once('close', onClose);
  const answer = await submission.answer;
  response.removeListener('close', onClose);
  exchange.version = answer.version;
  const classified = withClasses(model, classesOf(decoded.format), answer);
  const encoded = await encodedOf(context, decoded.format, classified);
  await sendAnswer(exchange, encoded);
}

/** The body of an inference, not read yet. */
interface InferBody {
  readonly bytes: Uint8Array;
  readonly headerLength: string | undefined;
  /** Of its bytes, how many are JSON. */
  readonly jsonLength: number;
}

async function bodyOf(
  context: Handlers,
  model: ServedModel,
  version: number | undefined,
  exchange: Exchange,
): Promise<InferBody> {
  model.resolve(version); // What cannot be answered need not be taken.
  const bytes = await readBody(exchange.request, rulesFor(context, exchange));
  const headerLength = headerOf(exchange.request, 'inference-header-content-length');
  const jsonLength = jsonLengthOf(headerLength, bytes.byteLength, context.limits.maxJsonBytes);
  return { bytes, headerLength, jsonLength };
}

async function documentOf(
  { limits, json }: Handlers,
  target: InferTarget,
  { bytes: body, headerLength, jsonLength }: InferBody,
  { holding }: Exchange,
): Promise<InferDocument> {
  if (jsonLength <= INLINE_JSON_BYTES) return readDocument(target, body, headerLength, limits);
  const document = await json.run({ kind: 'document', target, body, headerLength, limits });
  // Text is large for its numbers as a rule, but "1," unfolds to 8 bytes of FP64.
  const tensorBytes = document.inputs.reduce((sum, { bytes }) => sum + bytes.byteLength, 0);
  holding.add(tensorBytes - body.byteLength);
  return document;
}

/** Counts a request that never came to the data plane, by why, and passes on what was thrown. */
function countUndecoded(model: ServedModel): (thrown: unknown) => never {
  return (thrown) => {
    if (thrown instanceof RefusedError) {
      model.arrivals.refused++;
      model.countRefusal('memory');
    } else {
      model.arrivals.invalid++;
    }
    throw thrown;
  };
}

async function encodedOf(
  context: Handlers,
  format: AnswerFormat,
  answer: InferAnswer,
): Promise<EncodedInfer> {
  const elements = answer.outputs.reduce(
    (sum, { name, shape }) =>
      (format.outputs.find((wish) => wish.name === name)?.isBinary ?? format.isBinaryByDefault)
        ? sum
        : sum + elementCount(shape),
    0,
  );
  return elements <= INLINE_JSON_ELEMENTS
    ? encodeInfer(format, answer)
    : context.json.run({ kind: 'answer', format, answer });
}

async function sendAnswer(
  { request, response }: Exchange,
  { body, jsonLength }: EncodedInfer,
): Promise<void> {
  const type = jsonLength === undefined ? 'application/json' : 'application/octet-stream';
  const headers: Record<string, string | number> = { 'Content-Type': type };
  if (jsonLength !== undefined) headers['Inference-Header-Content-Length'] = jsonLength;
  await sendCompressed(request, response, headers, body);
}

function modelReady(context: RestContext, route: VersionedName, response: ServerResponse): void {
  const model = context.models.get(route.model);
  const isReady =
    route.version === undefined
      ? model.isReady
      : model.liveVersions.some((live) => live.version === route.version);
  if (!isReady) throw new HttpError(400, 'Model version not ready');
  send(response, 200);
}

const compressors = { gzip: promisify(gzip), deflate: promisify(deflate) };

async function sendCompressed(
  request: IncomingMessage,
  response: ServerResponse,
  headers: Record<string, string | number>,
  body: Uint8Array,
): Promise<void> {
  const accepted = request.headers['accept-encoding'];
  const encoding = typeof accepted === 'string' ? preferredEncoding(accepted) : undefined;
  if (encoding === undefined) return send(response, 200, headers, body);
  send(response, 200, { ...headers, 'Content-Encoding': encoding }, await compressors[encoding](body));
}

function preferredEncoding(accepted: string): 'gzip' | 'deflate' | undefined {
  for (const item of accepted.split(',')) {
    const [name, ...options] = item.split(';').map((part) => part.trim().toLowerCase());
    if (options.some((option) => /^q=0(\.0*)?$/.test(option))) continue;
    if (name === 'gzip' || name === 'deflate') return name;
  }
  return undefined;
}

function headerOf(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name];
  return Array.isArray(value) ? value.join(',') : value;
}

function sendJson(response: ServerResponse, value: unknown): void {
  send(response, 200, { 'Content-Type': 'application/json' }, Buffer.from(JSON.stringify(value)));
}

function send(
  response: ServerResponse,
  status: number,
  headers: Record<string, string | number> = {},
  body?: Uint8Array,
): void {
  response.writeHead(status, { ...headers, 'Content-Length': body?.byteLength ?? 0 });
  // A text joins the headers in one write; bytes would be written beside them.
  if (body !== undefined && body.byteLength <= MAX_JOINED_BYTES)
    response.end(Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString('latin1'), 'latin1');
  else response.end(body);
}

/** Beyond this, making a text of bytes costs more than a second buffer in a write. */
const MAX_JOINED_BYTES = 2048;

function answerError(context: RestContext, exchange: Exchange, thrown: unknown): void {
  const { request, response } = exchange;
  const { status, message } = statusOf(thrown);
  if (status === 500) context.logger.error({ err: thrown, url: request.url }, 'request failed');
  if (response.headersSent || response.destroyed) {
    response.destroy();
    return;
  }
  const headers: Record<string, string | number> = { 'Content-Type': 'application/json' };
  if (thrown instanceof RefusedError)
    headers['Retry-After'] = Math.max(1, Math.ceil(thrown.retryAfterMs / 1000));
  if (status === 501 && request.headers['content-encoding'] !== undefined)
    headers['Accept-Encoding'] = ACCEPTED_ENCODINGS;
  if (status === 401) headers['WWW-Authenticate'] = 'Bearer';
  if (thrown instanceof MethodNotAllowedError) headers.Allow = thrown.allowed;
  const body = Buffer.from(JSON.stringify({ error: message }));
  if (request.complete) {
    send(response, status, headers, body);
  } else if (exchange.awaitsContinue) {
    // It was never told to send its body, so nothing of it is on the way.
    send(response, status, { ...headers, Connection: 'close' }, body);
  } else {
    sendBeforeEnd(request, response, status, headers, body);
  }
}

/** What Node.js refuses before there is a request; the text is the error's reason without its details. */
const CONNECTION_ERRORS: Readonly<Record<string, readonly [status: string, message: string]>> = {
  HPE_HEADER_OVERFLOW: ['431 Request Header Fields Too Large', 'the headers of the request are too large'],
  ERR_HTTP_REQUEST_TIMEOUT: ['408 Request Timeout', 'the request did not come in time'],
  HPE_CHUNK_EXTENSIONS_OVERFLOW: ['413 Payload Too Large', 'the chunk extensions are too large'],
};

/** Answers what cannot be understood as HTTP, where the connection still takes an answer, and closes it. */
function refuseConnection(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const [status, message] = CONNECTION_ERRORS[error.code ?? ''] ?? [
    '400 Bad Request',
    `the request is no HTTP: ${messageOf(error)}`,
  ];
  const body = JSON.stringify({ error: message });
  socket.end(
    `HTTP/1.1 ${status}\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}

/** How long the rest of a refused body is read: 64 MiB come in this time at 270 Mbit/s. */
export const DISCARD_MS = 2_000;

/**
 * Answers a request whose body is still coming, and then closes the connection, since what is left would be taken for
 * the next request. Closing with bytes unread resets a connection, and the reset may overtake the answer; so the answer
 * leaves at once and the rest is read and thrown away for a while.
 */
function sendBeforeEnd(
  request: IncomingMessage,
  response: ServerResponse,
  status: number,
  headers: Record<string, string | number>,
  body: Uint8Array,
): void {
  response.writeHead(status, { ...headers, 'Content-Length': body.byteLength, Connection: 'close' });
  response.write(body);
  const timer = setTimeout(() => response.end(), DISCARD_MS).unref();
  const finish = () => {
    clearTimeout(timer);
    response.end();
  };
  request.once('end', finish);
  request.once('close', finish);
  request.once('error', finish);
  request.resume();
}
