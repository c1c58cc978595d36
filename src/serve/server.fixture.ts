import pino from 'pino';
import { Agent, request } from 'undici';
import { systemClock } from '../base/clock.ts';
import { type RunningServer, type ServerOptions, startServer } from './server.ts';

/** A silent server on free ports. */
export function start(root: string, options: Partial<ServerOptions> = {}): Promise<RunningServer> {
  return startServer({
    repository: root,
    logger: pino({ level: 'silent' }),
    clock: systemClock,
    httpPort: 0,
    metricsPort: 0,
    warmsPath: false,
    ...options,
  });
}

export interface Reply {
  readonly status: number;
  readonly headers: Record<string, string | string[] | undefined>;
  readonly bytes: Buffer;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: bodies of answers are examined freely in tests.
  readonly json: any;
}

/** Certificates of test servers are their own. */
export const agent = new Agent({
  keepAliveTimeout: 1000,
  connections: 8,
  connect: { rejectUnauthorized: false },
});

/** @param body sent as it is where it is text or bytes, else as JSON */
export async function call(
  server: RunningServer,
  method: 'GET' | 'POST' | 'PUT' | 'DELETE',
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Reply> {
  const payload =
    body === undefined || typeof body === 'string' || body instanceof Uint8Array
      ? body
      : JSON.stringify(body);
  const answer = await request(`${server.httpUrl}${path}`, {
    method,
    body: payload,
    headers,
    dispatcher: agent,
  });
  const bytes = Buffer.from(await answer.body.arrayBuffer());
  const text = bytes.toString();
  return {
    status: answer.statusCode,
    headers: answer.headers,
    bytes,
    text,
    get json() {
      return JSON.parse(text);
    },
  };
}
