import type { Frame, HistoryPage, Overview } from '../../src/serve/control/messages.ts';

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
  query: Readonly<Record<string, string | undefined>>,
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

export async function getHistory(
  server: string | undefined,
  before: number | undefined,
  signal: AbortSignal,
): Promise<HistoryPage> {
  return (await ask('history', { server, before: before?.toString() }, { signal })).json();
}

/** @throws ApiError 401 without the right token */
export async function postChange(
  server: string | undefined,
  task: string,
  change: 'pin' | 'slo',
  body: object,
  token: string,
): Promise<void> {
  const init = {
    method: 'POST',
    body: JSON.stringify(body),
    headers: { 'Content-Type': 'application/json' },
  };
  await ask(`tasks/${encodeURIComponent(task)}/${change}`, { server }, init, token);
}

export interface StreamHandlers {
  readonly onOpen: () => void;
  readonly onFrame: (frame: Frame, id: string) => void;
  /** What was missed cannot be told; overview and history are to be asked for anew. */
  readonly onReset: () => void;
}

/** A stream that says nothing for so long has been lost on the way: there is a frame every second. */
const SILENCE_MS = 6_000;

/** Longer lines are no frames of ours. */
const MAX_PENDING_CHARS = 4 * 1024 * 1024;

/**
 * Follows the frames until the stream ends. Not by EventSource, which cannot send a token.
 * @throws ApiError, or whatever ended it
 */
export async function followEvents(
  server: string | undefined,
  lastEventId: string | undefined,
  handlers: StreamHandlers,
  signal: AbortSignal,
): Promise<void> {
  const silence = new AbortController();
  let timer = setTimeout(() => silence.abort(), SILENCE_MS);
  try {
    const headers: HeadersInit = lastEventId === undefined ? {} : { 'Last-Event-ID': lastEventId };
    const init = { headers, signal: AbortSignal.any([signal, silence.signal]) };
    const response = await ask('events', { server }, init);
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

function handle(message: string, handlers: StreamHandlers): void {
  let id = '';
  let event = '';
  let data = '';
  for (const line of message.split('\n')) {
    if (line.startsWith('id: ')) id = line.slice(4);
    else if (line.startsWith('event: ')) event = line.slice(7);
    else if (line.startsWith('data: ')) data += line.slice(6);
  }
  if (event === 'reset') handlers.onReset();
  else if (data !== '') handlers.onFrame(JSON.parse(data) as Frame, id); // Written by our own server.
}
