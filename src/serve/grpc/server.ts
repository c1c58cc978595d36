import {
  createSecureServer,
  createServer,
  type Http2SecureServer,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import type { Logger } from 'pino';
import type { Clock } from '../../base/clock.ts';
import type { Target } from '../../repository/types.ts';
import type { RequestPlane } from '../data-plane.ts';
import type { Limits } from '../limits.ts';
import type { ModelMesh } from '../model-mesh.ts';
import type { ModelRegistry } from '../model-registry.ts';
import type { Access } from '../safety/tokens.ts';
import { Call, refuse, refuseHttp } from './call.ts';
import { GrpcError, STATUS } from './errors.ts';
import { Decompressor, type Framed } from './framing.ts';
import { HealthWatch } from './health.ts';
import { HealthCheckRequestSchema } from './health_pb.ts';
import { decode, type Route, routeOf } from './routes.ts';
import { StreamInfer } from './stream-infer.ts';

/** What the handlers translate to and from. */
export interface GrpcContext {
  readonly models: ModelRegistry;
  readonly plane: RequestPlane;
  readonly limits: Limits;
  readonly slots: number;
  /** Models that ModelMesh loads; undefined: its service is not offered. */
  readonly mesh?: ModelMesh;
  /** What this server runs on. */
  readonly target: Target;
  readonly logger: Logger;
  readonly clock: Clock;
  /** Whether the server takes requests: all tasks are loaded and it is not stopping. */
  readonly isReady: () => boolean;
  readonly access: Access;
  /** Certificate and key, PEM; undefined: no encryption. */
  readonly tls?: { readonly cert: string | Buffer; readonly key: string | Buffer };
}

/** The gRPC service. Listening is the owner's; ending connections is the service's own. */
export interface GrpcServer {
  readonly server: Http2Server | Http2SecureServer;
  /** Asks all clients to send new requests elsewhere; those that come nevertheless are still taken. */
  announceStop(): void;
  /** Ends streams once what they sent is answered, and refuses new calls. */
  finishStreams(): void;
  /** Stops listening, lets calls under way end for so long, then cuts the connections. */
  close(lingerMs: number): Promise<void>;
}

/** Calls at a time on one connection; the queue refuses long before. */
export const MAX_STREAMS_PER_CONNECTION = 1024;

/** Bytes that a client may send ahead per call and per connection: a tensor of 1 MB needs no round trip in between. */
export const STREAM_WINDOW_BYTES = 1024 * 1024;
export const CONNECTION_WINDOW_BYTES = 8 * 1024 * 1024;

/** Megabytes of answers and headers that may wait in one connection: some of the largest answers. */
export const MAX_CONNECTION_MEMORY_MB = 512;

/** How long a silent client with calls under way has to answer a ping. */
export const PING_TIMEOUT_MS = 20_000;

/** How often messages that do not end and changes of readiness are looked for. */
export const SWEEP_MS = 500;

/** A last stream number that excludes none: "stop soon" (RFC 9113, section 6.8). */
const NO_STREAM_EXCLUDED = 2 ** 31 - 1;

/** The Open Inference Protocol over gRPC, directly on HTTP/2, not yet listening. */
export function createGrpcServer(context: GrpcContext): GrpcServer {
  const { limits, logger, clock, tls } = context;
  const options = {
    settings: { maxConcurrentStreams: MAX_STREAMS_PER_CONNECTION, initialWindowSize: STREAM_WINDOW_BYTES },
    maxSessionMemory: MAX_CONNECTION_MEMORY_MB,
  };
  const server =
    tls === undefined ? createServer(options) : createSecureServer({ ...options, ...tls, allowHTTP1: false });
  server.maxConnections = limits.maxConnections;
  /** Of each connection, how many calls it has. */
  const sessions = new Map<ServerHttp2Session, { streams: number }>();
  const calls = new Set<Call>();
  const streamInfers = new Set<StreamInfer>();
  const watch = new HealthWatch(context.isReady);
  const decompressor = new Decompressor();
  let isStopping = false;

  server.on('session', (session) => {
    const state = { streams: 0 };
    sessions.set(session, state);
    session.on('close', () => sessions.delete(session));
    session.on('error', (thrown) => logger.debug({ err: thrown }, 'gRPC connection failed'));
    session.setLocalWindowSize(CONNECTION_WINDOW_BYTES);
    session.setTimeout(limits.keepAliveTimeoutMs, () => checkIdle(session, state));
    if (isStopping) session.close();
  });
  server.on('stream', (stream, headers) => {
    // A stream of a server is in a session of a server.
    const state = sessions.get(stream.session as ServerHttp2Session);
    if (state !== undefined) state.streams++;
    let call: Call | undefined;
    stream.on('close', () => {
      if (state !== undefined) state.streams--;
      if (call !== undefined) calls.delete(call);
    });
    // A stream that a client breaks off is its own affair.
    stream.on('error', (thrown) => logger.debug({ err: thrown }, 'gRPC call broken off'));
    try {
      call = begin(stream, headers);
      if (call !== undefined) calls.add(call);
    } catch (thrown) {
      refuse(stream, thrown);
    }
  });

  /** @throws GrpcError, InvalidRequestError for headers that cannot be served */
  function begin(stream: ServerHttp2Stream, headers: IncomingHttpHeaders): Call | undefined {
    const httpStatus = httpRefusalOf(headers);
    if (httpStatus !== undefined) {
      refuseHttp(stream, httpStatus);
      return undefined;
    }
    const path = String(headers[':path']);
    const route = routeOf(path);
    checkAccess(context, route, headers);
    if (isStopping && route.kind !== 'unary') throw stopping();
    const call = new Call({
      stream,
      headers,
      clock,
      maxMessageBytes: limits.maxBodyBytes,
      bytes: context.plane.bytes,
      decompressor,
      onFailure: (thrown, status) => {
        if (status === STATUS.INTERNAL) logger.error({ err: thrown, path }, 'request failed');
      },
    });
    start(route, call);
    return call;
  }

  function start(route: Route, call: Call): void {
    switch (route.kind) {
      case 'unary':
        call.receiveOne((framed) => run(context, route, framed, call));
        break;
      case 'stream_infer': {
        const streamInfer = new StreamInfer(context, call);
        streamInfers.add(streamInfer);
        call.stream.on('close', () => streamInfers.delete(streamInfer));
        break;
      }
      case 'watch':
        call.receiveOne(async (framed) => {
          const bytes = framed.isCompressed ? await call.decompress(framed.bytes) : framed.bytes;
          if (isStopping) throw stopping();
          watch.add(call, decode(HealthCheckRequestSchema, bytes).service);
        });
        break;
      default:
        route satisfies never;
    }
  }

  const sweep = setInterval(() => {
    const latestMs = clock.nowMs() - limits.requestTimeoutMs;
    for (const call of calls) if ((call.waitingSinceMs ?? latestMs) < latestMs) call.giveUp();
    watch.tellChanges();
  }, SWEEP_MS);
  sweep.unref();

  return {
    server,
    announceStop() {
      for (const session of sessions.keys()) {
        // One that was destroyed is told of only a moment later.
        if (!session.destroyed) session.goaway(0, NO_STREAM_EXCLUDED);
      }
      watch.tellChanges();
    },
    finishStreams() {
      isStopping = true;
      for (const streamInfer of streamInfers) streamInfer.end(stopping());
      watch.end(stopping());
    },
    async close(lingerMs) {
      isStopping = true;
      clearInterval(sweep);
      const closed = new Promise<void>((resolve) => {
        if (server.listening) server.close(() => resolve());
        else resolve();
      });
      for (const session of sessions.keys()) session.close();
      const timer = setTimeout(() => {
        for (const session of sessions.keys()) session.destroy();
      }, lingerMs);
      await closed;
      clearTimeout(timer);
    },
  };
}

/** The status of what is not gRPC at all. */
function httpRefusalOf(headers: IncomingHttpHeaders): 405 | 415 | undefined {
  if (headers[':method'] !== 'POST') return 405;
  return /^application\/grpc(\+proto)?(;|$)/.test(String(headers['content-type'])) ? undefined : 415;
}

/** A connection on which nothing has happened: without calls it is given up, with calls it must show that it lives. */
function checkIdle(session: ServerHttp2Session, state: { readonly streams: number }): void {
  if (state.streams === 0) {
    session.close();
    return;
  }
  const timer = setTimeout(() => session.destroy(), PING_TIMEOUT_MS).unref();
  session.ping(() => clearTimeout(timer));
}

async function run(
  context: GrpcContext,
  route: Extract<Route, { kind: 'unary' }>,
  framed: Framed,
  call: Call,
): Promise<void> {
  const message = framed.isCompressed ? await call.decompress(framed.bytes) : framed.bytes;
  if (call.isDone) return;
  await call.answer(await route.handle(context, message, call));
}

/** @throws GrpcError UNAUTHENTICATED unless the call bears a token that is enough */
function checkAccess({ access }: GrpcContext, route: Route, { authorization }: IncomingHttpHeaders): void {
  if (route.kind === 'watch' || (route.kind === 'unary' && route.access === 'open')) return;
  const isAdmin = route.kind === 'unary' && route.access === 'admin';
  if (access.allows(isAdmin ? 'administration' : 'inference', authorization)) return;
  throw new GrpcError(
    STATUS.UNAUTHENTICATED,
    isAdmin
      ? "loading and unloading need the metadata 'authorization: Bearer' with the administrator's token"
      : "this server needs the metadata 'authorization: Bearer' with a token",
  );
}

function stopping(): GrpcError {
  return new GrpcError(STATUS.UNAVAILABLE, 'The server is stopping; send the request to another one.');
}
