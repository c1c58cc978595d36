import type { Pool } from 'undici';
import { BonsaiError, messageOf } from '../../base/errors.ts';

/** Metrics of some hundred models are under 1 MB; more than this is no metrics page. */
export const MAX_RESPONSE_BYTES = 16 * 1024 * 1024;

/** Which certificates of a server are believed; by default those of the system's authorities for the host of its URL. */
export interface TlsTrust {
  /** PEM: authorities, or a server's own certificate that is signed by itself. */
  readonly ca: string;
  /** The name that its certificate has to have, where that is not the host of its URL. */
  readonly name?: string;
}

export function connectOptionsOf({ ca, name }: TlsTrust): { ca: string; servername?: string } {
  return { ca, ...(name !== undefined && { servername: name }) };
}

export interface Request {
  readonly method: 'GET' | 'POST';
  readonly path: string;
  readonly body?: string;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

export interface Answer {
  readonly status: number;
  readonly body: string;
}

/** @throws BonsaiError `server_unreachable` if no whole answer came in time, `aborted` if the caller gave up */
export async function exchange(pool: Pool, request: Request, name: string, token?: string): Promise<Answer> {
  const { method, path, body, timeoutMs, signal } = request;
  try {
    const response = await pool.request({
      method,
      path,
      body: body ?? null,
      headers: {
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      },
      headersTimeout: 0, // The signal below covers connecting, waiting and reading together.
      bodyTimeout: 0,
      signal: AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]),
    });
    const chunks: Buffer[] = [];
    let bytes = 0;
    for await (const chunk of response.body) {
      bytes += chunk.length;
      if (bytes > MAX_RESPONSE_BYTES) throw new Error(`its answer is over ${MAX_RESPONSE_BYTES} bytes`);
      chunks.push(chunk);
    }
    return { status: response.statusCode, body: Buffer.concat(chunks).toString('utf8') };
  } catch (cause) {
    if (signal.aborted)
      throw new BonsaiError('aborted', `${method} ${path} on ${name} was given up.`, { cause });
    const timedOut = cause instanceof Error && cause.name === 'TimeoutError';
    const why = timedOut ? `no answer within ${timeoutMs} ms` : messageOf(cause);
    throw new BonsaiError('server_unreachable', `${method} ${path} on ${name} failed: ${why}.`, { cause });
  }
}

/** @throws BonsaiError `invalid_config` for a token that is refused, `server_unreachable` for any answer but 200 */
export function expectOk({ status, body }: Answer, what: string, name: string): void {
  if (status === 200) return;
  if (status === 401 || status === 403) throw refusedToken(status, what, name);
  throw new BonsaiError('server_unreachable', `${what} on ${name} answered ${status}: ${errorText(body)}`);
}

export function refusedToken(status: number, what: string, name: string): BonsaiError {
  return new BonsaiError(
    'invalid_config',
    `${what} was refused with ${status}: give the token that ${name} expects.`,
  );
}

/** The `error` of a body that has one, else the start of the body. */
export function errorText(body: string): string {
  try {
    const parsed: unknown = JSON.parse(body);
    if (typeof parsed === 'object' && parsed !== null && 'error' in parsed) return String(parsed.error);
  } catch {
    // Not JSON: a proxy's page, or nothing.
  }
  return body.slice(0, 200) || 'no text';
}
