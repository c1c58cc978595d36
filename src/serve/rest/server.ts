import { createHash, timingSafeEqual } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { promisify } from 'node:util';
import { deflate, gzip } from 'node:zlib';
import type { Logger } from 'pino';
import type { Target } from '../../repository/types.ts';
import type { DataPlane } from '../data-plane.ts';
import { RefusedError } from '../errors.ts';
import type { Limits } from '../limits.ts';
import type { ModelRegistry } from '../model-registry.ts';
import { ACCEPTED_ENCODINGS, readBody } from './body.ts';
import { modelConfig } from './config.ts';
import { HttpError, statusOf } from './errors.ts';
import { decodeInfer, encodeInfer } from './infer.ts';
import { modelMetadata, serverMetadata } from './metadata.ts';
import { loadModel, repositoryIndex } from './repository.ts';
import { routeOf } from './routes.ts';
import { modelStatistics } from './statistics.ts';

/** What the handlers translate to and from. */
export interface RestContext {
  readonly models: ModelRegistry;
  readonly plane: DataPlane;
  readonly limits: Limits;
  readonly slots: number;
  /** What this server runs on. */
  readonly target: Target;
  readonly logger: Logger;
  /** Whether the server takes requests: all tasks are loaded and it is not stopping. */
  readonly isReady: () => boolean;
  /** Needed to load and unload; undefined: anybody may. */
  readonly adminToken?: string;
}

/** The Open Inference Protocol over HTTP, not yet listening. */
export function createRestServer(context: RestContext): Server {
  const { limits } = context;
  const server = createServer(
    {
      headersTimeout: limits.headersTimeoutMs,
      requestTimeout: limits.requestTimeoutMs,
      keepAliveTimeout: limits.keepAliveTimeoutMs,
      noDelay: true,
    },
    (request, response) => {
      // A server that stops (or starts) does not keep a client's connection for a next request.
      if (!context.isReady()) response.shouldKeepAlive = false;
      handle(context, request, response).catch((thrown: unknown) =>
        answerError(context, request, response, thrown),
      );
    },
  );
  server.maxConnections = limits.maxConnections;
  return server;
}

async function handle(
  context: RestContext,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const route = routeOf(request.method, request.url ?? '');
  switch (route.kind) {
    case 'infer':
      return infer(context, route, request, response);
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
        await repositoryIndex(context.models, await readBody(request, context.limits.maxBodyBytes)),
      );
    case 'load':
      checkAdmin(context, request);
      await loadModel(
        context.models,
        route.model,
        await readBody(request, context.limits.maxBodyBytes),
        context.slots,
      );
      return send(response, 200);
    case 'unload':
      checkAdmin(context, request);
      await readBody(request, context.limits.maxBodyBytes);
      await context.models.unload(route.model);
      return send(response, 200);
    default:
      route satisfies never;
  }
}

interface VersionedName {
  readonly model: string;
  readonly version: number | undefined;
}

async function infer(
  context: RestContext,
  route: VersionedName,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const model = context.models.get(route.model);
  let decoded: ReturnType<typeof decodeInfer>;
  try {
    model.resolve(route.version);
    const body = await readBody(request, context.limits.maxBodyBytes);
    const headerLength = headerOf(request, 'inference-header-content-length');
    decoded = decodeInfer(model, route.version, body, headerLength, context.limits.maxJsonDepth);
  } catch (thrown) {
    model.arrivals.invalid++;
    throw thrown;
  }
  const submission = context.plane.submit(decoded.request);
  const onClose = () => submission.cancel();
  response.once('close', onClose);
  const answer = await submission.answer;
  response.removeListener('close', onClose);
  const { body, jsonLength } = encodeInfer(decoded, answer);
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

/** @throws HttpError 401 unless the request bears the administrator's token */
function checkAdmin(context: RestContext, request: IncomingMessage): void {
  if (context.adminToken === undefined) return;
  const given = /^Bearer (.+)$/i.exec(request.headers.authorization ?? '')?.[1] ?? '';
  // Hashes have equal lengths, so the comparison takes the same time whatever was sent.
  const hash = (text: string) => createHash('sha256').update(text).digest();
  if (!timingSafeEqual(hash(given), hash(context.adminToken))) {
    throw new HttpError(
      401,
      "loading and unloading need 'Authorization: Bearer' with the administrator's token",
    );
  }
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
  response.end(body);
}

function answerError(
  context: RestContext,
  request: IncomingMessage,
  response: ServerResponse,
  thrown: unknown,
): void {
  const { status, message } = statusOf(thrown);
  if (status === 500) context.logger.error({ err: thrown, url: request.url }, 'request failed');
  if (response.headersSent || response.destroyed) {
    response.destroy();
    return;
  }
  const headers: Record<string, string | number> = { 'Content-Type': 'application/json' };
  if (thrown instanceof RefusedError)
    headers['Retry-After'] = Math.max(1, Math.ceil(thrown.retryAfterMs / 1000));
  if (status === 501) headers['Accept-Encoding'] = ACCEPTED_ENCODINGS;
  if (status === 401) headers['WWW-Authenticate'] = 'Bearer';
  const body = Buffer.from(JSON.stringify({ error: message }));
  if (request.complete) send(response, status, headers, body);
  else sendBeforeEnd(request, response, status, headers, body);
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
