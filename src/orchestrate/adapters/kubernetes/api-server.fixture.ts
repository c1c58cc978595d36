import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

/**
 * An API server of Kubernetes in memory: create, read, update, merge patch, server-side apply, delete with finalizers and
 * owners, status apart from spec, conflicts (409), watches with bookmarks, and history that is forgotten (410). It has no
 * schemas: any kind is taken. Answers can be slowed down, failed and cut off.
 * Source: Kubernetes API concepts; sigs.k8s.io/structured-merge-diff for apply.
 */
export class ApiServer {
  /** Requests as they came, "PATCH /apis/…?fieldManager=…". */
  readonly requests: string[] = [];
  /** Before each answer. */
  delayMs = 0;
  /** Answers this status to what it accepts, instead of the real answer. */
  fail: ((method: string, path: string) => number | undefined) | undefined;
  /** What happens to objects, for whoever plays kubelet. */
  onChange: ((event: 'ADDED' | 'MODIFIED' | 'DELETED', object: Stored) => void) | undefined;
  /** Of watches: from one to the next. */
  bookmarkMs = 200;
  /** The moment that the last bookmark told. */
  bookmarked = 0;
  private readonly objects = new Map<string, Stored>();
  private history: {
    readonly version: number;
    readonly type: string;
    readonly key: string;
    readonly object: Stored;
  }[] = [];
  private forgotten = 0;
  private version = 100;
  private readonly watches = new Set<Watch>();
  private readonly server = createServer((request, response) => {
    this.serve(request, response).catch((error) => {
      if (error instanceof Refusal) answer(response, error.code, statusOf(error));
      else answer(response, 500, statusOf(new Refusal(500, 'InternalError', String(error?.stack))));
    });
  });

  /** @returns its address */
  async start(): Promise<string> {
    await new Promise<void>((done) => this.server.listen(0, '127.0.0.1', done));
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.cutWatches();
    this.server.closeAllConnections();
    await new Promise((done) => this.server.close(done));
  }

  /** Ends all watches in the middle, as a broken connection does. */
  cutWatches(): void {
    for (const watch of this.watches) watch.response.destroy();
    this.watches.clear();
  }

  /** Ends all watches after what was sent, as a server does from time to time. */
  endWatches(): void {
    for (const watch of this.watches) watch.response.end();
  }

  /** Forgets what happened so far: watches from before have to list again. */
  compact(): void {
    this.forgotten = this.version;
    this.history = [];
  }

  get watching(): number {
    return this.watches.size;
  }

  /** @param collection as in `/apis/apps/v1/namespaces/edge/deployments` */
  find(collection: string, name: string): Stored | undefined {
    return this.objects.get(`${collection}/${name}`);
  }

  all(collection: string): Stored[] {
    return [...this.objects].filter(([key]) => key.startsWith(`${collection}/`)).map(([, object]) => object);
  }

  /** Creates it, or replaces it whatever its resourceVersion, as somebody else than the controller. */
  put(collection: string, object: Record<string, unknown>): Stored {
    const { name } = object.metadata as Stored['metadata'];
    const key = `${collection}/${name}`;
    const before = this.objects.get(key);
    const namespace = namespaceOf(collection);
    const managed = takenOver(before, object as unknown as Stored);
    const metadata = { ...before?.metadata, namespace, ...(object.metadata as object), managed };
    return this.store(key, { ...object, metadata } as Stored); // Objects of tests are whole.
  }

  remove(collection: string, name: string): void {
    const key = `${collection}/${name}`;
    const object = this.objects.get(key);
    if (object === undefined) return;
    if ((object.metadata.finalizers ?? []).length > 0) {
      if (object.metadata.deletionTimestamp === undefined)
        this.store(key, {
          ...object,
          metadata: { ...object.metadata, deletionTimestamp: new Date().toISOString() },
        });
      return;
    }
    this.objects.delete(key);
    this.announce('DELETED', key, {
      ...object,
      metadata: { ...object.metadata, resourceVersion: this.next() },
    });
    // Who is owned by nobody any more goes, too.
    for (const [owned, { metadata }] of [...this.objects])
      if (metadata.ownerReferences?.some(({ uid }) => uid === object.metadata.uid)) {
        const cut = owned.lastIndexOf('/');
        this.remove(owned.slice(0, cut), owned.slice(cut + 1));
      }
  }

  private async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url!, 'http://api');
    const { method = 'GET' } = request;
    this.requests.push(`${method} ${request.url}`);
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    if (this.delayMs > 0) await delay(this.delayMs);
    const failure = this.fail?.(method, url.pathname);
    if (failure !== undefined) throw new Refusal(failure, 'InternalError', 'as the test wants it');
    const body = chunks.length > 0 ? JSON.parse(Buffer.concat(chunks).toString()) : undefined;
    const address = parseAddress(url.pathname);
    if (address.name === undefined) {
      if (method === 'POST') answer(response, 201, this.create(address.collection, body));
      else if (url.searchParams.get('watch') === '1') this.watch(address, url.searchParams, response);
      else answer(response, 200, this.list(address, url.searchParams));
      return;
    }
    const key = `${address.collection}/${address.name}`;
    const before = this.objects.get(key);
    const isApply = request.headers['content-type'] === 'application/apply-patch+yaml';
    if (before === undefined && !(method === 'PATCH' && isApply && address.subresource === undefined))
      throw new Refusal(404, 'NotFound', `${address.name} not found`);
    switch (method) {
      case 'GET':
        answer(response, 200, before);
        return;
      case 'PUT':
        answer(response, 200, this.replace(key, before!, body, address.subresource));
        return;
      case 'PATCH': {
        const manager = url.searchParams.get('fieldManager') ?? 'unknown';
        const isForced = url.searchParams.get('force') === 'true';
        const after = isApply
          ? applied(before, body, manager, isForced, address.subresource)
          : (mergePatched(before, body) as Stored);
        answer(
          response,
          before === undefined ? 201 : 200,
          before === undefined
            ? this.create(address.collection, after)
            : this.replace(key, before, after, address.subresource, isApply ? undefined : body),
        );
        return;
      }
      case 'DELETE':
        this.remove(address.collection, address.name);
        answer(response, 200, { kind: 'Status', status: 'Success' });
        return;
      default:
        throw new Refusal(405, 'MethodNotAllowed', method);
    }
  }

  private create(collection: string, object: Stored): Stored {
    const namespace = namespaceOf(collection);
    const key = `${collection}/${object.metadata.name}`;
    if (this.objects.has(key))
      throw new Refusal(409, 'AlreadyExists', `${object.metadata.name} already exists`);
    const { status: _, ...rest } = object;
    return this.store(key, { ...rest, metadata: { ...object.metadata, namespace } } as Stored);
  }

  /** @param patch of a merge patch, whose resourceVersion counts if it has one */
  private replace(
    key: string,
    before: Stored,
    object: Stored,
    subresource: string | undefined,
    patch?: { metadata?: { resourceVersion?: string } },
  ): Stored {
    const claimed = patch === undefined ? object.metadata.resourceVersion : patch.metadata?.resourceVersion;
    if (claimed !== undefined && claimed !== before.metadata.resourceVersion)
      throw new Refusal(
        409,
        'Conflict',
        'the object has been modified; please apply your changes to the latest version',
      );
    const after = (
      subresource === 'status'
        ? {
            ...before,
            status: object.status,
            metadata: { ...before.metadata, managed: object.metadata.managed },
          }
        : { ...object, ...(before.status !== undefined && { status: before.status }) }
    ) as Stored;
    return this.store(key, { ...after, metadata: { ...after.metadata, uid: before.metadata.uid } });
  }

  private store(key: string, object: Stored): Stored {
    const before = this.objects.get(key);
    const resourceVersion = before?.metadata.resourceVersion;
    const isSame =
      before !== undefined &&
      JSON.stringify({ ...object, metadata: { ...object.metadata, resourceVersion } }) ===
        JSON.stringify(before);
    if (isSame) return before;
    const isSpecSame = JSON.stringify(before?.spec) === JSON.stringify(object.spec);
    const stored: Stored = {
      ...object,
      metadata: {
        ...object.metadata,
        uid: before?.metadata.uid ?? `uid-${this.version}`,
        creationTimestamp: before?.metadata.creationTimestamp ?? new Date().toISOString(),
        generation: before === undefined ? 1 : (before.metadata.generation ?? 1) + (isSpecSame ? 0 : 1),
        resourceVersion: this.next(),
      },
    };
    this.objects.set(key, stored);
    this.announce(before === undefined ? 'ADDED' : 'MODIFIED', key, stored);
    const { deletionTimestamp, finalizers = [] } = stored.metadata;
    if (deletionTimestamp !== undefined && finalizers.length === 0) {
      const cut = key.lastIndexOf('/');
      this.remove(key.slice(0, cut), key.slice(cut + 1));
    }
    return stored;
  }

  private next(): string {
    return String(++this.version);
  }

  private announce(type: 'ADDED' | 'MODIFIED' | 'DELETED', key: string, object: Stored): void {
    this.history.push({ version: Number(object.metadata.resourceVersion), type, key, object });
    for (const watch of this.watches) watch.offer(type, key, object);
    this.onChange?.(type, object);
  }

  private list({ matches }: Address, query: URLSearchParams): object {
    const selected = [...this.objects]
      .filter(([key, object]) => matches(key) && isSelected(object, query.get('labelSelector')))
      .map(([, object]) => object);
    const from = Number(query.get('continue') ?? 0);
    const limit = Number(query.get('limit') ?? 0) || selected.length;
    const items = selected.slice(from, from + limit);
    const more = from + limit < selected.length ? { continue: String(from + limit) } : {};
    return {
      kind: 'List',
      apiVersion: 'v1',
      metadata: { resourceVersion: String(this.version), ...more },
      items,
    };
  }

  private watch({ matches }: Address, query: URLSearchParams, response: ServerResponse): void {
    const since = Number(query.get('resourceVersion') ?? 0);
    const send = (type: string, object: unknown) => response.write(`${JSON.stringify({ type, object })}\n`);
    if (since < this.forgotten) throw new Refusal(410, 'Expired', `too old resource version: ${since}`);
    response.writeHead(200, { 'content-type': 'application/json' });
    response.flushHeaders();
    const offer = (type: string, key: string, object: Stored) => {
      if (matches(key) && isSelected(object, query.get('labelSelector'))) send(type, object);
    };
    for (const { version, type, key, object } of this.history) if (version > since) offer(type, key, object);
    const bookmarks = setInterval(() => {
      if (query.get('allowWatchBookmarks') !== 'true') return;
      send('BOOKMARK', { kind: 'Bookmark', metadata: { name: '', resourceVersion: String(this.version) } });
      this.bookmarked = this.version;
    }, this.bookmarkMs);
    const watch: Watch = { response, offer, send };
    this.watches.add(watch);
    response.on('close', () => {
      clearInterval(bookmarks);
      this.watches.delete(watch);
    });
  }

  /** Tells all watches, in the middle of them, that their history is gone. */
  expireWatches(): void {
    this.compact();
    for (const { send, response } of this.watches) {
      send('ERROR', { kind: 'Status', code: 410, reason: 'Expired', message: 'too old resource version' });
      response.end();
    }
  }
}

export interface Stored {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly uid?: string;
    readonly resourceVersion?: string;
    readonly generation?: number;
    readonly creationTimestamp?: string;
    readonly deletionTimestamp?: string;
    readonly finalizers?: readonly string[];
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
    readonly ownerReferences?: readonly { readonly uid: string }[];
    /** Fields by manager, as paths. */
    readonly managed?: Readonly<Record<string, readonly string[]>>;
  };
  // biome-ignore lint/suspicious/noExplicitAny: specs and statuses are examined freely in tests.
  readonly spec?: any;
  // biome-ignore lint/suspicious/noExplicitAny: as above.
  readonly status?: any;
  // biome-ignore lint/suspicious/noExplicitAny: as above.
  readonly [field: string]: any;
}

interface Watch {
  readonly response: ServerResponse;
  offer(type: string, key: string, object: Stored): void;
  send(type: string, object: unknown): void;
}

class Refusal extends Error {
  readonly code: number;
  readonly reason: string;

  constructor(code: number, reason: string, message: string) {
    super(message);
    this.code = code;
    this.reason = reason;
  }
}

function statusOf({ code, reason, message }: Refusal): object {
  return { kind: 'Status', apiVersion: 'v1', status: 'Failure', code, reason, message };
}

function answer(response: ServerResponse, status: number, body: unknown): void {
  if (response.headersSent) return void response.end();
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

function namespaceOf(collection: string): string | undefined {
  return /\/namespaces\/([^/]+)\//.exec(collection)?.[1];
}

interface Address {
  readonly collection: string;
  readonly name?: string;
  readonly subresource?: string;
  /** Whether a stored key belongs to the collection. */
  matches(key: string): boolean;
}

function parseAddress(path: string): Address {
  const match =
    /^((?:\/api|\/apis\/[^/]+)\/[^/]+)(?:\/namespaces\/([^/]+))?\/([^/]+)(?:\/([^/]+))?(?:\/(status))?$/.exec(
      path,
    );
  if (match === null) throw new Refusal(404, 'NotFound', `${path} is no address`);
  const [, group, namespace, plural, name, subresource] = match;
  const collection =
    namespace === undefined ? `${group}/${plural}` : `${group}/namespaces/${namespace}/${plural}`;
  return {
    collection,
    name,
    subresource,
    matches: (key) =>
      namespace === undefined
        ? key.startsWith(`${group}/namespaces/`) && key.split('/').at(-2) === plural
        : key.startsWith(`${collection}/`),
  };
}

function isSelected({ metadata }: Stored, selector: string | null): boolean {
  return (selector ?? '')
    .split(',')
    .filter((part) => part !== '')
    .every((part) => {
      const [label, value] = part.split('=');
      const own = metadata.labels?.[label!];
      return value === undefined ? own !== undefined : own === value;
    });
}

/** JSON merge patch, RFC 7396. */
function mergePatched(target: unknown, patch: unknown): unknown {
  if (!isMap(patch)) return patch;
  const result: Record<string, unknown> = isMap(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch))
    if (value === null) delete result[key];
    else result[key] = mergePatched(result[key], value);
  return result;
}

/** Lists whose items are told apart by a key; others are taken as a whole. */
const LIST_KEYS: Readonly<Record<string, readonly string[]>> = {
  conditions: ['type'],
  containers: ['name'],
  volumes: ['name'],
  volumeMounts: ['mountPath'],
  containerPorts: ['containerPort', 'protocol'],
};

/**
 * Server-side apply: fields that the manager applied before and does not name any more go, unless somebody else has them;
 * fields of others are a conflict, or become the manager's by force.
 */
function applied(
  before: Stored | undefined,
  given: Stored,
  manager: string,
  isForced: boolean,
  subresource: string | undefined,
): Stored {
  const { apiVersion, kind, metadata, ...fields } = given;
  const { name, namespace, labels, annotations, finalizers, ownerReferences } = metadata;
  const named = withoutUndefined({ labels, annotations, finalizers, ownerReferences });
  const config = { ...fields, ...(Object.keys(named).length > 0 && { metadata: named }) };
  if (subresource === undefined) delete (config as { status?: unknown }).status;
  const slot = subresource === undefined ? manager : `${manager}/${subresource}`;
  const leaves = leavesOf(config);
  const managed: Record<string, readonly string[]> = { ...before?.metadata.managed };
  let result: unknown = before ?? { apiVersion, kind, metadata: { name, namespace } };
  for (const path of managed[slot] ?? []) {
    const isShared = Object.entries(managed).some(([own, paths]) => own !== slot && paths.includes(path));
    if (!leaves.has(path) && !isShared) result = removed(result, JSON.parse(path));
  }
  for (const [path, value] of leaves) {
    const others = Object.keys(managed).filter((own) => own !== slot && managed[own]!.includes(path));
    if (others.length > 0 && JSON.stringify(valueAt(result, JSON.parse(path))) !== JSON.stringify(value)) {
      if (!isForced) throw new Refusal(409, 'Conflict', `${path} is managed by ${others.join(', ')}`);
      for (const other of others) managed[other] = managed[other]!.filter((own) => own !== path);
    }
    result = assigned(result, JSON.parse(path), value);
  }
  managed[slot] = [...leaves.keys()];
  const merged = result as Stored;
  const { resourceVersion } = metadata;
  return {
    ...merged,
    metadata: { ...merged.metadata, managed, ...(resourceVersion !== undefined && { resourceVersion }) },
  };
}

/** Fields that somebody else has changed are nobody's else any more. */
function takenOver(before: Stored | undefined, object: Stored): Stored['metadata']['managed'] {
  const { others = [], ...managed } = before?.metadata.managed ?? {};
  const changed = [...leavesOf({ spec: object.spec })]
    .filter(([path, value]) => JSON.stringify(valueAt(before, JSON.parse(path))) !== JSON.stringify(value))
    .map(([path]) => path);
  return {
    ...Object.fromEntries(
      Object.entries(managed).map(([own, paths]) => [own, paths.filter((path) => !changed.includes(path))]),
    ),
    others: [...new Set([...others, ...changed])],
  };
}

type Step = string | Readonly<Record<string, unknown>>;

/** Leaves by their path, a JSON list of names and of keys in lists. */
function leavesOf(value: unknown, path: readonly Step[] = []): Map<string, unknown> {
  const keys = Array.isArray(value) ? listKeys(path.at(-1), value) : undefined;
  const parts: [Step, unknown][] | undefined = isMap(value)
    ? Object.entries(value)
    : keys === undefined
      ? undefined
      : (value as Record<string, unknown>[]).map((item) => [
          Object.fromEntries(keys.map((key) => [key, item[key]])),
          item,
        ]);
  if (parts === undefined || parts.length === 0) return new Map([[JSON.stringify(path), value]]);
  return new Map(parts.flatMap(([step, part]) => [...leavesOf(part, [...path, step])]));
}

function listKeys(step: Step | undefined, items: readonly unknown[]): readonly string[] | undefined {
  const keys = typeof step === 'string' ? LIST_KEYS[step] : undefined;
  return keys !== undefined && items.every((item) => isMap(item) && keys.every((key) => key in item))
    ? keys
    : undefined;
}

const isItem = (step: Step) => (item: unknown) =>
  isMap(item) && Object.entries(step as object).every(([key, value]) => item[key] === value);

function valueAt(value: unknown, [step, ...rest]: readonly Step[]): unknown {
  if (step === undefined) return value;
  const part =
    typeof step === 'string'
      ? isMap(value)
        ? value[step]
        : undefined
      : Array.isArray(value)
        ? value.find(isItem(step))
        : undefined;
  return valueAt(part, rest);
}

function assigned(value: unknown, [step, ...rest]: readonly Step[], leaf: unknown): unknown {
  if (step === undefined) return leaf;
  if (typeof step === 'string') {
    const map = isMap(value) ? value : {};
    return { ...map, [step]: assigned(map[step], rest, leaf) };
  }
  const list = Array.isArray(value) ? value : [];
  const at = list.findIndex(isItem(step));
  if (at < 0) return [...list, assigned(undefined, rest, leaf)];
  return list.map((item, i) => (i === at ? assigned(item, rest, leaf) : item));
}

function removed(value: unknown, [step, ...rest]: readonly Step[]): unknown {
  if (step === undefined) return value;
  if (typeof step === 'string') {
    if (!isMap(value) || !(step in value)) return value;
    const { [step]: part, ...others } = value;
    if (rest.length === 0) return others;
    const left = removed(part, rest);
    const isEmpty =
      (isMap(left) && Object.keys(left).length === 0) || (Array.isArray(left) && left.length === 0);
    return isEmpty ? others : { ...value, [step]: left };
  }
  if (!Array.isArray(value)) return value;
  return value.flatMap((item) => {
    if (!isItem(step)(item)) return [item];
    if (rest.length === 0) return [];
    const left = removed(item, rest);
    return isMap(left) && Object.keys(left).length > 0 ? [left] : [];
  });
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function withoutUndefined(value: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value).filter(([, part]) => part !== undefined));
}
