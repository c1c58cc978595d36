import { createHash, createHmac } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

/** What goes wrong with a request. */
export type Fault =
  | { readonly kind: 'error'; readonly status: number; readonly code: string }
  /** The answer breaks off after so many bytes of the body. */
  | { readonly kind: 'cut'; readonly afterBytes: number }
  /** It is done, but the answer never arrives. */
  | { readonly kind: 'lost' }
  /** A byte of the body is another one. */
  | { readonly kind: 'corrupt' }
  /** Nothing is answered. */
  | { readonly kind: 'hang' }
  /** The body comes in pieces, apart from each other. */
  | { readonly kind: 'slow'; readonly pieceBytes: number; readonly everyMs: number };

export interface SeenRequest {
  readonly method: string;
  /** Without the bucket. */
  readonly key: string;
  readonly query: URLSearchParams;
  readonly range?: string;
}

interface StoredObject {
  readonly bytes: Buffer;
  readonly etag: string;
  readonly writtenMs: number;
}

export const DOUBLE_CREDENTIALS = { accessKeyId: 'AKIDEXAMPLE', secretAccessKey: 'secret/key' } as const;
export const DOUBLE_BUCKET = 'edge-models';
const REGION = 'eu-west-1';
const MAX_SKEW_MS = 15 * 60_000;

/**
 * A store that keeps to the protocol of S3 as far as it is used here, and does wrong on demand. It checks signatures
 * (version 4), the digest of bodies, the clock and the region; knows ETags, ranges, conditional reads and writes,
 * copies, and listings in pages. Source: Amazon S3 API Reference; "Signature Version 4 signing process".
 */
export class StoreDouble {
  readonly objects = new Map<string, StoredObject>();
  readonly requests: SeenRequest[] = [];
  /** Asked for each request; undefined: it is answered as it should be. */
  fault: (request: SeenRequest) => Fault | undefined = () => undefined;
  /** Added to the time that the store believes it is. */
  clockOffsetMs = 0;
  hasConditionalWrites = true;
  pageSize = 1000;
  readonly #server: Server;
  #port = 0;

  constructor() {
    this.#server = createServer((request, response) => {
      this.#answer(request, response).catch((thrown) => {
        response.destroy(thrown instanceof Error ? thrown : undefined);
      });
    });
  }

  /** @param port the one that it had before, after an outage */
  async start(port = this.#port): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject).listen(port, '127.0.0.1', resolve);
    });
    this.#port = (this.#server.address() as AddressInfo).port;
  }

  /** As a machine that loses power. */
  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  get endpoint(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  urlOf(prefix: string): string {
    return `s3://${DOUBLE_BUCKET}/${prefix}?endpoint=${this.endpoint}&region=${REGION}`;
  }

  put(key: string, bytes: Uint8Array, writtenMs = Date.now() + this.clockOffsetMs): StoredObject {
    const stored = {
      bytes: Buffer.from(bytes),
      etag: `"${createHash('md5').update(bytes).digest('hex')}"`,
      writtenMs,
    };
    this.objects.set(key, stored);
    return stored;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await bodyOf(request);
    const url = new URL(request.url ?? '/', this.endpoint);
    const [, bucket = '', ...rest] = url.pathname.split('/').map(decodeURIComponent);
    const key = rest.join('/');
    const method = request.method ?? '';
    const seen = { method, key, query: url.searchParams, range: request.headers.range };
    this.requests.push(seen);
    const fault = this.fault(seen);
    if (fault?.kind === 'hang') return;
    if (fault?.kind === 'error') return refuse(response, fault.status, fault.code);
    const refusal = this.#refusalOf(request, url, body);
    if (refusal !== undefined) return refuse(response, refusal.status, refusal.code, refusal.message);
    if (bucket !== DOUBLE_BUCKET) return refuse(response, 404, 'NoSuchBucket');
    if (key === '') return this.#list(url.searchParams, response);
    if (method === 'PUT') return this.#write(request, key, body, response, fault);
    if (method === 'DELETE') {
      this.objects.delete(key);
      response.writeHead(204).end();
      return;
    }
    await this.#read(request, key, response, fault);
  }

  /** Signature, clock, region and digest of the body. */
  #refusalOf(
    request: IncomingMessage,
    url: URL,
    body: Buffer,
  ): { status: number; code: string; message?: string } | undefined {
    const { authorization = '' } = request.headers;
    const fields = /^AWS4-HMAC-SHA256 Credential=([^,]+), ?SignedHeaders=([^,]+), ?Signature=(\w+)$/.exec(
      authorization,
    );
    if (fields === null) return { status: 403, code: 'AccessDenied' };
    const [accessKey, day = '', region = '', service = ''] = fields[1]!.split('/');
    if (accessKey !== DOUBLE_CREDENTIALS.accessKeyId) return { status: 403, code: 'InvalidAccessKeyId' };
    if (region !== REGION) {
      const message = `The authorization header is malformed; the region '${region}' is wrong; expecting '${REGION}'`;
      return { status: 400, code: 'AuthorizationHeaderMalformed', message };
    }
    const stamp = String(request.headers['x-amz-date']);
    const sentMs = Date.parse(
      stamp.replace(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/, '$1-$2-$3T$4:$5:$6Z'),
    );
    if (!(Math.abs(sentMs - Date.now() - this.clockOffsetMs) <= MAX_SKEW_MS))
      return { status: 403, code: 'RequestTimeTooSkewed' };
    const contentDigest = String(request.headers['x-amz-content-sha256']);
    if (contentDigest !== sha256(body)) return { status: 400, code: 'XAmzContentSHA256Mismatch' };
    const names = fields[2]!.split(';');
    const query = [...url.searchParams]
      .map(([name, value]) => `${escaped(name)}=${escaped(value)}`)
      .sort()
      .join('&');
    const canonical = [
      request.method,
      url.pathname,
      query,
      ...names.map((name) => `${name}:${String(request.headers[name]).trim()}`),
      '',
      fields[2],
      contentDigest,
    ].join('\n');
    const toSign = ['AWS4-HMAC-SHA256', stamp, `${day}/${region}/${service}/aws4_request`, sha256(canonical)];
    const signingKey = [day, region, service, 'aws4_request'].reduce<string | Buffer>(
      (secret, part) => createHmac('sha256', secret).update(part).digest(),
      `AWS4${DOUBLE_CREDENTIALS.secretAccessKey}`,
    );
    const expected = createHmac('sha256', signingKey).update(toSign.join('\n')).digest('hex');
    return expected === fields[3] ? undefined : { status: 403, code: 'SignatureDoesNotMatch' };
  }

  async #write(
    request: IncomingMessage,
    key: string,
    body: Buffer,
    response: ServerResponse,
    fault: Fault | undefined,
  ): Promise<void> {
    const before = this.objects.get(key);
    const { 'if-match': match, 'if-none-match': noneMatch, 'x-amz-copy-source': source } = request.headers;
    if (this.hasConditionalWrites) {
      if (match !== undefined && before === undefined) return refuse(response, 404, 'NoSuchKey');
      if ((match !== undefined && match !== before?.etag) || (noneMatch === '*' && before !== undefined))
        return refuse(response, 412, 'PreconditionFailed');
    }
    if (source === undefined) {
      const { etag } = this.put(key, body);
      if (fault?.kind === 'lost') response.destroy();
      else response.writeHead(200, { ETag: etag }).end();
      return;
    }
    const from = this.objects.get(decodeURIComponent(String(source)).replace(/^\/?[^/]+\//, ''));
    if (from === undefined) return refuse(response, 404, 'NoSuchKey');
    const { etag } = this.put(key, from.bytes);
    xml(response, 200, `<CopyObjectResult><ETag>${etag}</ETag></CopyObjectResult>`);
  }

  async #read(
    request: IncomingMessage,
    key: string,
    response: ServerResponse,
    fault: Fault | undefined,
  ): Promise<void> {
    const object = this.objects.get(key);
    if (object === undefined) return refuse(response, 404, 'NoSuchKey');
    const { etag, bytes } = object;
    if (request.headers['if-none-match'] === etag) {
      response.writeHead(304, { ETag: etag }).end();
      return;
    }
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
    if (from > 0 && from >= bytes.length) return refuse(response, 416, 'InvalidRange');
    const part = Buffer.from(bytes.subarray(from));
    if (fault?.kind === 'corrupt') part[0] = part[0]! ^ 0xff;
    response.writeHead(from > 0 ? 206 : 200, {
      ETag: etag,
      'Content-Length': part.length,
      'Last-Modified': new Date(object.writtenMs).toUTCString(),
      ...(from > 0 && { 'Content-Range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` }),
    });
    if (request.method === 'HEAD') {
      response.end();
      return;
    }
    if (fault?.kind === 'cut') {
      await new Promise((resolve) => response.write(part.subarray(0, fault.afterBytes), resolve));
      response.destroy();
      return;
    }
    if (fault?.kind === 'slow') {
      for (let at = 0; at < part.length && !response.destroyed; at += fault.pieceBytes) {
        response.write(part.subarray(at, at + fault.pieceBytes));
        await delay(fault.everyMs);
      }
      response.end();
      return;
    }
    response.end(part);
  }

  #list(query: URLSearchParams, response: ServerResponse): void {
    const prefix = query.get('prefix') ?? '';
    const delimiter = query.get('delimiter') ?? '';
    const after = query.get('continuation-token') ?? '';
    const entries = new Map<string, StoredObject | undefined>();
    for (const [key, object] of [...this.objects].sort(([a], [b]) => (a < b ? -1 : 1))) {
      if (!key.startsWith(prefix)) continue;
      const end = delimiter === '' ? -1 : key.indexOf(delimiter, prefix.length);
      if (end < 0) entries.set(key, object);
      else entries.set(key.slice(0, end + 1), undefined);
    }
    const left = [...entries].filter(([name]) => name > after);
    const page = left.slice(0, this.pageSize);
    const isTruncated = left.length > page.length;
    const items = page.map(([name, object]) =>
      object === undefined
        ? `<CommonPrefixes><Prefix>${name}</Prefix></CommonPrefixes>`
        : `<Contents><Key>${name}</Key><Size>${object.bytes.length}</Size><ETag>${object.etag}</ETag><LastModified>${new Date(object.writtenMs).toISOString()}</LastModified></Contents>`,
    );
    const token = isTruncated ? `<NextContinuationToken>${page.at(-1)![0]}</NextContinuationToken>` : '';
    xml(
      response,
      200,
      `<ListBucketResult><IsTruncated>${isTruncated}</IsTruncated>${token}${items.join('')}</ListBucketResult>`,
    );
  }
}

function refuse(response: ServerResponse, status: number, code: string, message = code): void {
  xml(response, status, `<Error><Code>${code}</Code><Message>${message}</Message></Error>`);
}

function xml(response: ServerResponse, status: number, text: string): void {
  response
    .writeHead(status, { 'Content-Type': 'application/xml', Date: new Date().toUTCString() })
    .end(`<?xml version="1.0" encoding="UTF-8"?>${text}`);
}

async function bodyOf(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

function sha256(data: string | Buffer): string {
  return createHash('sha256').update(data).digest('hex');
}

/** As RFC 3986 has it, which signatures want. */
function escaped(text: string): string {
  return encodeURIComponent(text).replace(
    /[!'()*]/g,
    (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}
