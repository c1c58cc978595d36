import { Pool } from 'undici';
import { BonsaiError, messageOf } from '../../../base/errors.ts';
import type { ClusterAccess } from './credentials.ts';
import { KubernetesError } from './errors.ts';
import { apiVersionOf, type KubernetesObject, pathOf, type Resource } from './resources.ts';

export const clientDefaults = {
  timeoutMs: 15_000,
  /** A page of a list; etcd holds objects of up to 1.5 MB, most have some KB. */
  pageSize: 250,
  maxAnswerBytes: 64 * 1024 * 1024,
  /** An event carries one object. */
  maxEventBytes: 4 * 1024 * 1024,
  /** How long the server is asked to keep a watch open; its own default is 30 to 60 minutes. */
  watchSeconds: 290,
  /** Beyond that a watch is dead: the connection broke and nobody said so. */
  watchGraceMs: 15_000,
  /** Watches keep connections of their own; the rest is for requests. */
  connections: 16,
} as const;

/** Who applied which field, for server-side apply. */
export const FIELD_MANAGER = 'bonsai-controller';

export interface ObjectList {
  readonly items: readonly KubernetesObject[];
  /** Where a watch goes on from. */
  readonly resourceVersion: string;
}

export interface WatchEvent {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK';
  readonly object: KubernetesObject;
}

/** Of a collection. */
export interface Selection {
  /** Undefined: all namespaces. */
  readonly namespace?: string;
  readonly labelSelector?: string;
}

/** Of server-side apply. */
export interface ApplyOptions {
  readonly subresource?: 'status';
  /** Default: the controller. */
  readonly manager?: string;
  /** False: fields that others have and that differ are a conflict (409). Default true. */
  readonly isForced?: boolean;
  readonly signal?: AbortSignal;
}

interface Call {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  readonly path: string;
  readonly query?: Readonly<Record<string, string | undefined>>;
  readonly body?: unknown;
  readonly contentType?: string;
  readonly signal?: AbortSignal;
}

/**
 * As much of the Kubernetes API as a controller needs. Every call throws KubernetesError for what the API server refuses,
 * BonsaiError `server_unreachable` where no whole answer came in time, `aborted` where the caller gave up.
 */
export class KubernetesClient {
  private readonly access: ClusterAccess;
  private readonly prefix: string;
  private readonly pool: Pool;
  private readonly closing = new AbortController();

  constructor(access: ClusterAccess) {
    const { origin, pathname } = new URL(access.server);
    this.access = access;
    this.prefix = pathname.replace(/\/$/, '');
    this.pool = new Pool(origin, {
      connections: clientDefaults.connections,
      connect: {
        ca: access.ca,
        cert: access.certificate,
        key: access.key,
        ...(access.serverName !== undefined && { servername: access.serverName }),
        ...(access.trustsAnyCertificate && { rejectUnauthorized: false }),
      },
    });
  }

  /** @returns undefined where there is none */
  async get(
    resource: Resource,
    namespace: string,
    name: string,
    signal?: AbortSignal,
  ): Promise<KubernetesObject | undefined> {
    try {
      return await this.exchange({ method: 'GET', path: pathOf(resource, namespace, name), signal });
    } catch (error) {
      if (error instanceof KubernetesError && error.status === 404) return undefined;
      throw error;
    }
  }

  /** All of a collection, page by page. @throws KubernetesError 410 if that took so long that the first page is history */
  async list(resource: Resource, selection: Selection, signal?: AbortSignal): Promise<ObjectList> {
    const items: KubernetesObject[] = [];
    let next: string | undefined;
    for (;;) {
      const page = await this.exchange<{
        items?: KubernetesObject[];
        metadata?: { resourceVersion?: string; continue?: string };
      }>({
        method: 'GET',
        path: pathOf(resource, selection.namespace),
        query: {
          labelSelector: selection.labelSelector,
          limit: String(clientDefaults.pageSize),
          continue: next,
        },
        signal,
      });
      // Items of a list leave out what the list says for all.
      for (const item of page.items ?? [])
        items.push({ ...item, apiVersion: apiVersionOf(resource), kind: resource.kind });
      next = page.metadata?.continue || undefined;
      if (next === undefined) return { items, resourceVersion: page.metadata?.resourceVersion ?? '' };
    }
  }

  /**
   * What happens to a collection from a moment on; ends when the server ends it.
   * @throws KubernetesError 410 where that moment is too long ago: list again
   */
  async *watch(
    resource: Resource,
    selection: Selection,
    resourceVersion: string,
    signal: AbortSignal,
  ): AsyncGenerator<WatchEvent> {
    const path = pathOf(resource, selection.namespace);
    const what = `Watching ${resource.plural}`;
    const { watchSeconds, watchGraceMs, maxEventBytes } = clientDefaults;
    const deadline = AbortSignal.timeout(1000 * watchSeconds + watchGraceMs);
    const ending = AbortSignal.any([signal, this.closing.signal, deadline]);
    const query = {
      watch: '1',
      allowWatchBookmarks: 'true',
      resourceVersion,
      timeoutSeconds: String(watchSeconds),
      labelSelector: selection.labelSelector,
    };
    try {
      const answer = await this.send({ method: 'GET', path, query }, ending);
      if (answer.statusCode !== 200) throw await refusal(what, answer);
      let rest = '';
      const decoder = new TextDecoder();
      for await (const chunk of answer.body) {
        const lines = (rest + decoder.decode(chunk as Buffer, { stream: true })).split('\n');
        rest = lines.pop()!;
        if (rest.length > maxEventBytes) throw new Error(`an event is over ${maxEventBytes} bytes`);
        for (const line of lines) if (line.trim() !== '') yield eventOf(line, what);
      }
    } catch (cause) {
      throw this.told(cause, what, signal);
    }
  }

  create(resource: Resource, object: KubernetesObject, signal?: AbortSignal): Promise<KubernetesObject> {
    const path = pathOf(resource, object.metadata.namespace);
    return this.exchange({
      method: 'POST',
      path,
      body: object,
      query: { fieldManager: FIELD_MANAGER },
      signal,
    });
  }

  /** @throws KubernetesError 409 if it changed since its resourceVersion */
  update(resource: Resource, object: KubernetesObject, signal?: AbortSignal): Promise<KubernetesObject> {
    const { namespace, name } = object.metadata;
    const path = pathOf(resource, namespace, name);
    return this.exchange({
      method: 'PUT',
      path,
      body: object,
      query: { fieldManager: FIELD_MANAGER },
      signal,
    });
  }

  /**
   * Server-side apply: these fields shall be so, and those that were applied before and are not named any more go. Fields of
   * others stay, but for those named here, which become ours.
   */
  apply(resource: Resource, object: KubernetesObject, options: ApplyOptions = {}): Promise<KubernetesObject> {
    const { namespace, name } = object.metadata;
    return this.exchange({
      method: 'PATCH',
      path: pathOf(resource, namespace, name, options.subresource),
      body: object,
      // JSON is YAML.
      contentType: 'application/apply-patch+yaml',
      query: { fieldManager: options.manager ?? FIELD_MANAGER, force: String(options.isForced ?? true) },
      signal: options.signal,
    });
  }

  /** JSON merge patch. @throws KubernetesError 409 if it names a resourceVersion, and it changed since */
  patch(
    resource: Resource,
    namespace: string,
    name: string,
    body: object,
    signal?: AbortSignal,
  ): Promise<KubernetesObject> {
    return this.exchange({
      method: 'PATCH',
      path: pathOf(resource, namespace, name),
      body,
      contentType: 'application/merge-patch+json',
      query: { fieldManager: FIELD_MANAGER },
      signal,
    });
  }

  /** Nothing happens where there is none. */
  async delete(resource: Resource, namespace: string, name: string, signal?: AbortSignal): Promise<void> {
    try {
      await this.exchange({
        method: 'DELETE',
        path: pathOf(resource, namespace, name),
        body: { apiVersion: 'v1', kind: 'DeleteOptions', propagationPolicy: 'Background' },
        signal,
      });
    } catch (error) {
      if (!(error instanceof KubernetesError && error.status === 404)) throw error;
    }
  }

  async close(): Promise<void> {
    this.closing.abort();
    await this.pool.destroy();
  }

  private async exchange<T = KubernetesObject>(call: Call): Promise<T> {
    const what = `${call.method} ${call.path}`;
    const { timeoutMs, maxAnswerBytes } = clientDefaults;
    const given = call.signal === undefined ? [] : [call.signal];
    const ending = AbortSignal.any([...given, this.closing.signal, AbortSignal.timeout(timeoutMs)]);
    try {
      const answer = await this.send(call, ending);
      if (answer.statusCode < 200 || answer.statusCode > 299) throw await refusal(what, answer);
      return JSON.parse(await textOf(answer, maxAnswerBytes)) as T; // The API server says what it has in this shape.
    } catch (cause) {
      throw this.told(cause, what, call.signal);
    }
  }

  private async send({ method, path, query = {}, body, contentType }: Call, signal: AbortSignal) {
    const token = await this.access.token?.();
    const given = Object.entries(query).flatMap(([name, value]) =>
      value === undefined ? [] : [[name, value] as [string, string]],
    );
    const search = new URLSearchParams(given).toString();
    return this.pool.request({
      method,
      path: `${this.prefix}${path}${search === '' ? '' : `?${search}`}`,
      body: body === undefined ? null : JSON.stringify(body),
      headers: {
        accept: 'application/json',
        ...(body === undefined ? {} : { 'content-type': contentType ?? 'application/json' }),
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      },
      headersTimeout: 0, // The signal covers connecting, waiting and reading together.
      bodyTimeout: 0,
      signal,
    });
  }

  private told(cause: unknown, what: string, signal?: AbortSignal): unknown {
    if (cause instanceof BonsaiError) return cause;
    if (signal?.aborted || this.closing.signal.aborted)
      return new BonsaiError('aborted', `${what} was given up.`, { cause });
    const why =
      cause instanceof Error && cause.name === 'TimeoutError' ? 'no whole answer in time' : messageOf(cause);
    return new BonsaiError('server_unreachable', `${what} at ${this.access.server} failed: ${why}.`, {
      cause,
    });
  }
}

type Answer = Awaited<ReturnType<Pool['request']>>;

async function textOf({ body }: Answer, maxBytes: number): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of body) {
    bytes += chunk.length;
    if (bytes > maxBytes) throw new Error(`its answer is over ${maxBytes} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** A Status object says more than the status of HTTP; a proxy in between may answer with anything. */
async function refusal(what: string, answer: Answer): Promise<KubernetesError> {
  const text = await textOf(answer, clientDefaults.maxEventBytes).catch(() => '');
  const seconds = Number(answer.headers['retry-after']);
  const retryAfterMs = Number.isFinite(seconds) ? 1000 * seconds : undefined;
  let parsed: { reason?: unknown; message?: unknown } = {};
  try {
    parsed = JSON.parse(text);
  } catch {
    // Not JSON; its beginning is told below.
  }
  return new KubernetesError(what, {
    status: answer.statusCode,
    reason: typeof parsed.reason === 'string' ? parsed.reason : '',
    message: typeof parsed.message === 'string' ? parsed.message : text.slice(0, 200) || 'no text',
    retryAfterMs,
  });
}

/** @throws KubernetesError for an event that tells an error */
function eventOf(line: string, what: string): WatchEvent {
  const event = JSON.parse(line) as { type: string; object: KubernetesObject & Record<string, unknown> };
  if (event.type !== 'ERROR') return event as WatchEvent;
  const { code, reason, message } = event.object;
  throw new KubernetesError(what, {
    status: typeof code === 'number' ? code : 500,
    reason: String(reason ?? ''),
    message: String(message ?? ''),
  });
}
