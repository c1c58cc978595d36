import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Logger } from 'pino';

/** What a handler knows of a request beyond its head. */
export interface RequestFacts {
  readonly id?: string;
  readonly version?: number;
}

/** Names that clients and proxies give a request are repeated up to this length. */
const MAX_ID_LENGTH = 128;

/**
 * Writes a line to the log when a request has been answered or its client has gone. The trace that it belongs to is
 * passed on from the header `traceparent` (W3C Trace Context, section 3.2), its own name from `x-request-id`.
 * @param facts asked for at the end
 */
export function logRequest(
  logger: Logger,
  request: IncomingMessage,
  response: ServerResponse,
  facts: () => RequestFacts,
): void {
  const start = process.hrtime.bigint();
  response.once('close', () => {
    const { id, version } = facts();
    const durationMs = Number(process.hrtime.bigint() - start) / 1e6;
    const trace = traceOf(request.headers.traceparent);
    const requestId = request.headers['x-request-id'];
    logger.info(
      {
        method: request.method,
        url: request.url,
        status: response.writableFinished ? response.statusCode : 'aborted',
        durationMs: Math.round(durationMs * 1000) / 1000,
        requestBytes: Number(request.headers['content-length'] ?? 0) || undefined,
        remote: request.socket.remoteAddress,
        version,
        id: id === undefined || id === '' ? undefined : id.slice(0, MAX_ID_LENGTH),
        requestId: typeof requestId === 'string' ? requestId.slice(0, MAX_ID_LENGTH) : undefined,
        ...trace,
      },
      'request',
    );
  });
}

/** @returns nothing where the header is absent or malformed, which the specification says to ignore */
export function traceOf(
  traceparent: string | string[] | undefined,
): { readonly traceId: string; readonly parentSpanId: string } | undefined {
  if (typeof traceparent !== 'string') return undefined;
  const [, version, traceId, parentSpanId] =
    /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?$/.exec(traceparent) ?? [];
  if (version === undefined || version === 'ff' || traceId === undefined || parentSpanId === undefined)
    return undefined;
  return /^0+$/.test(traceId) || /^0+$/.test(parentSpanId) ? undefined : { traceId, parentSpanId };
}
