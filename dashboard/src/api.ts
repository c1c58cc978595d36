import type { FleetRecord } from '../../src/orchestrate/fleet/record.ts';
import type { FleetOverview, Overview } from '../../src/serve/control/messages.ts';

export type Query = Readonly<Record<string, string | undefined>>;

/** An answer that is no success. */
export class ApiError extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

const TOKEN_KEY = 'bonsai-token';

/** The token that was typed in; kept until the tab closes, and never in an address. */
export function storedToken(): string {
  return sessionStorage.getItem(TOKEN_KEY) ?? '';
}

export function storeToken(token: string): void {
  if (token === '') sessionStorage.removeItem(TOKEN_KEY);
  else sessionStorage.setItem(TOKEN_KEY, token);
}

/** Asks the control port. @throws ApiError; TypeError if the server is not there */
async function ask(
  path: string,
  query: Query,
  init: RequestInit = {},
  token: string = storedToken(),
): Promise<Response> {
  const url = new URL(`./api/v1/${path}`, document.baseURI);
  for (const [name, value] of Object.entries(query))
    if (value !== undefined) url.searchParams.set(name, value);
  const headers = new Headers(init.headers);
  if (token !== '') headers.set('Authorization', `Bearer ${token}`);
  const response = await fetch(url, { ...init, headers, cache: 'no-store' });
  if (response.ok) return response;
  const text = await response.text();
  let message = text;
  try {
    message = (JSON.parse(text) as { error?: string }).error ?? text;
  } catch {
    // A proxy's page.
  }
  throw new ApiError(response.status, message || `The server answered ${response.status}.`);
}

export async function getOverview(server: string | undefined, signal: AbortSignal): Promise<Overview> {
  return (await ask('overview', { server }, { signal })).json();
}

export async function getFleet(signal: AbortSignal): Promise<FleetOverview<FleetRecord>> {
  return (await ask('fleet', {}, { signal })).json();
}

/** A page of history; of a server's as of a fleet's. */
interface Page<F> {
  readonly bootId: string;
  readonly firstSeq: number;
  readonly frames: readonly F[];
}

/** @param path `''`, or `fleet/` */
export async function getHistory<F>(
  path: string,
  query: Query,
  before: number | undefined,
  signal: AbortSignal,
): Promise<Page<F>> {
  return (await ask(`${path}history`, { ...query, before: before?.toString() }, { signal })).json();
}

/** @throws ApiError 401 without the right token */
export async function postChange(path: string, query: Query, body: object, token: string): Promise<void> {
  const init = {
    method: 'POST',
    body: JSON.stringify(body),
    headers: { 'Content-Type': 'application/json' },
  };
  await ask(path, query, init, token);
}

/** Why a change was not made, for a person. */
export function problemOf(thrown: unknown): string {
  if (!(thrown instanceof ApiError)) return 'The server cannot be reached.';
  return thrown.status === 401 ? 'The server does not accept this token.' : thrown.message;
}

export interface StreamHandlers<F> {
  readonly onOpen: () => void;
  readonly onFrame: (frame: F, id: string) => void;
  /** What is no frame and is not repeated. */
  readonly onEvent: (name: string, data: string) => void;
  /** What was missed cannot be told; overview and history are to be asked for anew. */
  readonly onReset: () => void;
}

/** A stream that says nothing for so long has been lost on the way: there is a frame every second. */
const SILENCE_MS = 4_000;

/** Longer lines are no frames of ours. */
const MAX_PENDING_CHARS = 4 * 1024 * 1024;

/**
 * Follows the frames until the stream ends. Not by EventSource, which cannot send a token.
 * @throws ApiError, or whatever ended it
 */
export async function followEvents<F>(
  path: string,
  query: Query,
  lastEventId: string | undefined,
  handlers: StreamHandlers<F>,
  signal: AbortSignal,
): Promise<void> {
  const silence = new AbortController();
  let timer = setTimeout(() => silence.abort(), SILENCE_MS);
  try {
    const headers: HeadersInit = lastEventId === undefined ? {} : { 'Last-Event-ID': lastEventId };
    const init = { headers, signal: AbortSignal.any([signal, silence.signal]) };
    const response = await ask(`${path}events`, query, init);
    handlers.onOpen();
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    let pending = '';
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
      pending += value;
      if (pending.length > MAX_PENDING_CHARS)
        throw new Error('The server sends what is no stream of frames.');
      const messages = pending.split('\n\n');
      pending = messages.pop()!;
      for (const message of messages) handle(message, handlers);
    }
  } finally {
    clearTimeout(timer);
  }
}

function handle<F>(message: string, handlers: StreamHandlers<F>): void {
  let id = '';
  let event = '';
  let data = '';
  for (const line of message.split('\n')) {
    if (line.startsWith('id: ')) id = line.slice(4);
    else if (line.startsWith('event: ')) event = line.slice(7);
    else if (line.startsWith('data: ')) data += line.slice(6);
  }
  if (event === 'reset') handlers.onReset();
  else if (event !== '') handlers.onEvent(event, data);
  else if (data !== '') handlers.onFrame(JSON.parse(data) as F, id); // Written by our own server.
}
