import { randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { z } from 'zod';
import type { Clock } from '../../base/clock.ts';
import { InvalidRequestError } from '../errors.ts';
import { parseJson } from '../json.ts';
import { checkShape } from '../load-request.ts';
import { HttpError, MethodNotAllowedError, statusOf } from '../rest/errors.ts';
import type { TlsIdentity } from '../safety/tls.ts';
import type { Access, Permission } from '../safety/tokens.ts';
import { type Asset, readAssets } from './assets.ts';
import type { Board, Description, Look } from './board.ts';
import type { Channel } from './channel.ts';
import { streamEvents } from './event-stream.ts';
import type { FleetBoard, FleetDescription } from './fleet-board.ts';
import type { FrameRing } from './frame-ring.ts';
import { checkRequest } from './guard.ts';
import type {
  DrainRequest,
  FleetFrame,
  FleetOverview,
  HistoryPage,
  Overview,
  PinRequest,
  SloRequest,
} from './messages.ts';
import type { Overrides } from './overrides.ts';

/** Something that is watched, and how it is changed by hand. */
export interface Watched {
  readonly board: Board;
  /** Undefined: it cannot be changed. */
  readonly overrides?: Overrides;
}

/** Servers that are watched and run as one. */
export interface WatchedFleet {
  readonly board: FleetBoard;
  /**
   * Empties a server, or takes it back; resolves when that is kept.
   * @throws BonsaiError `invalid_argument` for a name that nobody has
   */
  drain(server: string, isDrained: boolean): Promise<void>;
}

export interface ControlOptions {
  /**
   * At least one; the first is shown to who asks for none by name. Read for each request: its owner may add and remove
   * servers.
   */
  readonly watched: readonly Watched[];
  /** What all of them together are. */
  readonly fleet?: WatchedFleet;
  readonly access: Access;
  readonly clock: Clock;
  /** The address that it will listen on. */
  readonly host: string;
  /** Undefined: plain HTTP. */
  readonly tls?: TlsIdentity;
  /** Told what goes wrong in answering. */
  readonly onError: (thrown: unknown) => void;
}

export interface ControlServer {
  /** Not yet listening. */
  readonly server: Server;
  /** Tells a look at the named server to all who watch it. */
  push(board: Board, look: Look): void;
  /** Tells the fleet's state to all who watch it. @param look a frame that is to be kept, if there is one */
  pushFleet(description: FleetDescription, look?: Omit<FleetFrame, 'seq'>): void;
  /** Lets all who watch go. */
  endStreams(): void;
}

export const controlLimits = {
  /** People who watch at a time; each costs some KB and a write per second. */
  maxStreams: 32,
  maxConnections: 128,
  /** Two numbers as JSON. */
  maxBodyBytes: 4096,
  bodyTimeoutMs: 10_000,
  /** Frames of one page of history: 5 minutes, some 300 KB. */
  maxHistoryFrames: 300,
  /** An objective set by hand; shorter than the fastest answer and longer than anybody waits are mistakes. */
  minSloMs: 1,
  maxSloMs: 600_000,
} as const;

/** No foreign script, style, font or frame; styles are set by script, not in attributes. */
const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const SAFETY_HEADERS = {
  'Content-Security-Policy': CONTENT_SECURITY_POLICY,
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
} as const;

/**
 * The live page and what it asks for: `/` and its files to everybody, `/api/v1/…` to who may read (as inference does),
 * changes to administrators.
 */
export function createControlServer(options: ControlOptions): ControlServer {
  const { tls } = options;
  const timeouts = { headersTimeout: 10_000, requestTimeout: controlLimits.bodyTimeoutMs };
  const server: Server =
    tls === undefined
      ? createServer(timeouts)
      : createTlsServer({ ...timeouts, cert: tls.cert, key: tls.key });
  server.maxConnections = controlLimits.maxConnections;
  const context: Context = {
    ...options,
    bootId: randomBytes(6).toString('hex'),
    assets: undefined,
    streams: new Set(),
  };
  server.on('request', (request, response) => {
    for (const [name, value] of Object.entries(SAFETY_HEADERS)) response.setHeader(name, value);
    handle(context, request, response).catch((thrown: unknown) => {
      const { status, message } = statusOf(thrown);
      if (status === 500) options.onError(thrown);
      if (response.headersSent) response.destroy();
      else {
        if (thrown instanceof MethodNotAllowedError) response.setHeader('Allow', thrown.allowed);
        // A body that was not read must not be taken for the next request.
        if (!request.complete) response.setHeader('Connection', 'close');
        sendJson(response, JSON.stringify({ error: message }), status);
      }
    });
  });
  return {
    server,
    push: (board, look) => board.push(look, (description) => overviewOf(context, board, description)),
    pushFleet: (description, look) => {
      if (look !== undefined) options.fleet?.board.push(look);
      options.fleet?.board.announce(() => JSON.stringify(fleetOverviewOf(context, description)));
    },
    endStreams: () => {
      for (const end of context.streams) end();
    },
  };
}

interface Context extends ControlOptions {
  readonly bootId: string;
  /** Read when the first one is asked for. */
  assets: Promise<ReadonlyMap<string, Asset>> | undefined;
  /** Each ends one. */
  readonly streams: Set<() => void>;
}

async function handle(context: Context, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const target = request.url ?? '/';
  if (!URL.canParse(target, 'http://none')) throw new HttpError(400, 'this is no address');
  const url = new URL(target, 'http://none');
  const path = url.pathname;
  if (!path.startsWith('/api/')) return sendAsset(context, request, response, path);
  const [, , version, ...parts] = path.split('/');
  const [resource, task, change, ...rest] = parts;
  if (version !== 'v1') throw new HttpError(404, 'Not Found');
  if (resource === 'fleet') return handleFleet(context, request, response, url, parts.slice(1));
  if (rest.length > 0) throw new HttpError(404, 'Not Found');
  if (resource === 'tasks' && (change === 'pin' || change === 'slo')) {
    checkAccess(context, request, 'POST', 'administration');
    await changeTask(context, request, watchedOf(context, url), decoded(task!), change);
    response.writeHead(204).end();
    return;
  }
  if (task !== undefined) throw new HttpError(404, 'Not Found');
  checkAccess(context, request, 'GET', 'inference');
  const { board } = watchedOf(context, url);
  switch (resource) {
    case 'overview':
      return sendJson(response, JSON.stringify(overviewOf(context, board, board.describe())));
    case 'history':
      return sendJson(response, historyOf(context, board.ring, url));
    case 'events':
      return stream(context, request, response, board);
    default:
      throw new HttpError(404, 'Not Found');
  }
}

/** @param parts of the path behind `/api/v1/fleet` */
async function handleFleet(
  context: Context,
  request: IncomingMessage,
  response: ServerResponse,
  url: URL,
  parts: readonly string[],
): Promise<void> {
  const { fleet } = context;
  const [what, name, change] = parts;
  if (what === 'servers' && change === 'drain' && parts.length === 3) {
    checkAccess(context, request, 'POST', 'administration');
    if (fleet === undefined) throw new HttpError(404, NO_FLEET);
    const body = parseJson(await readSmallBody(request), 4);
    const { isDrained }: DrainRequest = checkShape(drainShape, body, 'the request');
    await fleet.drain(decoded(name!), isDrained);
    response.writeHead(204).end();
    return;
  }
  if (parts.length > 1) throw new HttpError(404, 'Not Found');
  checkAccess(context, request, 'GET', 'inference');
  if (fleet === undefined) throw new HttpError(404, NO_FLEET);
  const { board } = fleet;
  const overview = () => JSON.stringify(fleetOverviewOf(context, board.describe()));
  switch (what) {
    case undefined:
      return sendJson(response, overview());
    case 'history':
      return sendJson(response, historyOf(context, board.ring, url));
    case 'events':
      return stream(context, request, response, board, { event: 'fleet', text: overview() });
    default:
      throw new HttpError(404, 'Not Found');
  }
}

const NO_FLEET = 'these servers are not run as a fleet: that needs its file (bonsai orchestrate fleet.yaml)';

function stream(
  { streams, bootId }: Context,
  request: IncomingMessage,
  response: ServerResponse,
  channel: Channel,
  greeting?: { readonly event: string; readonly text: string },
): void {
  if (streams.size >= controlLimits.maxStreams)
    throw new HttpError(503, `${controlLimits.maxStreams} pages watch already; close one`);
  const lastEventId = request.headers['last-event-id'];
  const end = streamEvents(response, channel, bootId, lastEventId?.toString(), greeting);
  streams.add(end);
  response.on('close', () => streams.delete(end));
}

function checkAccess(
  context: Context,
  request: IncomingMessage,
  method: 'GET' | 'POST',
  permission: Permission,
): void {
  if (request.method !== method) throw new MethodNotAllowedError([method]);
  const { access, host, tls } = context;
  checkRequest(request, permission, { access, host, isEncrypted: tls !== undefined });
}

function watchedOf({ watched }: Context, url: URL): Watched {
  const name = url.searchParams.get('server');
  const found = name === null ? watched[0] : watched.find(({ board }) => board.server === name);
  if (found !== undefined) return found;
  const names = watched.map(({ board }) => board.server).join(', ');
  throw new HttpError(404, `"${name?.slice(0, 80)}" is not watched here; there are: ${names}`);
}

function fleetOverviewOf({ bootId, access }: Context, description: FleetDescription): FleetOverview<unknown> {
  const overrides = access.asksFor('administration') ? 'token' : 'open';
  return { schemaVersion: 1, bootId, overrides, ...description };
}

function overviewOf(
  { watched, fleet, bootId, access }: Context,
  board: Board,
  description: Description,
): Overview {
  const { overrides } = description;
  return {
    schemaVersion: 1,
    bootId,
    servers: watched.map((entry) => entry.board.server),
    server: board.server,
    ...(fleet !== undefined && { isFleet: true }),
    ...description,
    overrides: overrides === 'open' && access.asksFor('administration') ? 'token' : overrides,
  };
}

/** Put together from texts that are there already: a page of 300 KB costs no more than copying it. */
function historyOf({ bootId }: Context, ring: FrameRing, url: URL): string {
  const number = (name: string, byDefault: number, highest: number) => {
    const text = url.searchParams.get(name);
    if (text === null) return byDefault;
    if (/^\d{1,15}$/.test(text)) return Math.min(Number(text), highest);
    throw new InvalidRequestError(`'${name}' should be a number, got '${text.slice(0, 40)}'`);
  };
  const before = number('before', ring.lastSeq + 1, ring.lastSeq + 1);
  const limit = number('limit', controlLimits.maxHistoryFrames, controlLimits.maxHistoryFrames);
  const head: Omit<HistoryPage, 'frames'> = { bootId, firstSeq: ring.firstSeq };
  const frames = ring.between(before - limit, before);
  return `${JSON.stringify(head).slice(0, -1)},"frames":[${frames.join(',')}]}`;
}

const drainShape = z.strictObject({ isDrained: z.boolean() });
const pinShape = z.strictObject({ version: z.int().positive().nullable() });
const sloShape = z.strictObject({
  sloMs: z.number().min(controlLimits.minSloMs).max(controlLimits.maxSloMs).nullable(),
});

/** Does it, and says so in the log that all who watch can read. */
async function changeTask(
  { clock }: Context,
  request: IncomingMessage,
  { board, overrides }: Watched,
  task: string,
  change: 'pin' | 'slo',
): Promise<void> {
  if (overrides === undefined) throw new HttpError(403, 'this server cannot be changed from here');
  const body = parseJson(await readSmallBody(request), 4);
  let what: string;
  if (change === 'pin') {
    const { version }: PinRequest = checkShape(pinShape, body, 'the request');
    await overrides.pin(task, version ?? undefined);
    what = version === null ? `unpin ${task}` : `pin ${task} to version ${version}`;
  } else {
    const { sloMs }: SloRequest = checkShape(sloShape, body, 'the request');
    await overrides.setSlo(task, sloMs ?? undefined);
    what = sloMs === null ? `objective of ${task} as configured` : `objective of ${task}: ${sloMs} ms`;
  }
  if (overrides.isToldLater) return;
  const atMs = Math.round(clock.epochMs());
  board.tell({ atMs, kind: 'override', reason: 'Set by hand.', changes: [what] });
}

async function readSmallBody(request: IncomingMessage): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > controlLimits.maxBodyBytes)
      throw new HttpError(413, `a change has at most ${controlLimits.maxBodyBytes} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch (cause) {
    throw new InvalidRequestError(`'${part.slice(0, 80)}' is not percent-encoded as it should be`, { cause });
  }
}

async function sendAsset(
  context: Context,
  request: IncomingMessage,
  response: ServerResponse,
  path: string,
): Promise<void> {
  if (request.method !== 'GET' && request.method !== 'HEAD') throw new MethodNotAllowedError(['GET', 'HEAD']);
  context.assets ??= readAssets();
  const assets = await context.assets;
  const asset = assets.get(path);
  if (asset === undefined) {
    if (assets.size > 0) throw new HttpError(404, 'Not Found');
    throw new HttpError(404, "the live page was not built; 'npm run build' builds it");
  }
  const isGzipped = /\bgzip\b/.test(request.headers['accept-encoding']?.toString() ?? '');
  const bytes = isGzipped ? asset.gzipped : asset.bytes;
  response.writeHead(200, {
    'Content-Type': asset.type,
    'Content-Length': bytes.length,
    'Cache-Control': asset.isImmutable ? 'public, max-age=31536000, immutable' : 'no-cache',
    Vary: 'Accept-Encoding',
    ...(isGzipped && { 'Content-Encoding': 'gzip' }),
  });
  response.end(request.method === 'HEAD' ? undefined : bytes);
}

function sendJson(response: ServerResponse, text: string, status = 200): void {
  response.writeHead(status, { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' }).end(text);
}
