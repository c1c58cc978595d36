import type { RoutedServer, Routing } from '../balancer.ts';

export interface NginxConfigOptions {
  /** Absolute; NGINX' process number, log and temporary files lie there. */
  readonly folder: string;
  /** Where clients speak HTTP, as HOST:PORT. */
  readonly http: string;
  /** Where clients speak gRPC, as HOST:PORT; undefined: nowhere. */
  readonly grpc?: string;
  /** Where clients of single tasks speak gRPC, by task. */
  readonly grpcByTask?: Readonly<Record<string, string>>;
  readonly workers: number;
  /** Of a request; larger ones are answered by 413. */
  readonly maxBodyBytes: number;
  /** The account of the workers where NGINX is started by root. */
  readonly user?: string;
  readonly version: NginxVersion;
  /** How servers are spoken to by TLS; undefined: without. */
  readonly tls?: {
    /** Absolute; PEM: authorities, or certificates that are signed by themselves. */
    readonly caFile: string;
    /** What the certificate of each server has to be for. */
    readonly name: string;
  };
  /** Whether clients' HTTP connections stay open between requests; by default where a reload cannot lose any. */
  readonly keepsConnections?: boolean;
  /** Answered at `GENERATION_PATH`, so that one can see when a configuration is in use. */
  readonly generation: number;
}

export type NginxVersion = readonly [major: number, minor: number, patch: number];

/** Says the generation of the configuration in use. */
export const GENERATION_PATH = '/.bonsai/generation';

/** The header (metadata key) by which gRPC clients of several tasks name theirs: NGINX cannot look into messages. */
export const TASK_HEADER = 'bonsai-task';

/** A server that failed is not tried again for so long; other servers take its requests meanwhile. */
export const FAIL_TIMEOUT_S = 2;

/** Servers that one request is tried on at most; a second failure in a row is rare enough. */
export const TRIES = 3;

/**
 * After this a gRPC client is asked for a new connection. A reload leaves connections on which something is always under
 * way with the old workers, which route as before; 2 s later they are gone. A client notices nothing but a connect.
 */
export const GRPC_CONNECTION_S = 2;

/** What changes a server, Triton's included, rather than asking a network: methods of gRPC, and paths of HTTP. */
const ADMINISTRATION = {
  grpc: '^/(inference[.]GRPCInferenceService/(Repository|SystemSharedMemory|CudaSharedMemory|TraceSetting|LogSettings)|mmesh[.])',
  http: '^/v2/(repository|systemsharedmemory|cudasharedmemory|logging|trace|models/[^/]+/trace)(/|$)',
} as const;

/** Idle connections that each worker keeps to each upstream. */
const KEEPALIVE_CONNECTIONS = 64;

/** Certificates of authorities between a server's and a trusted one, at most. */
const TLS_VERIFY_DEPTH = 4;

/** By default NGINX ends a client's connection after 1,000 requests, which for gRPC means often. */
const REQUESTS_PER_CONNECTION = 100_000;

/**
 * NGINX' configuration for a routing. Every request is balanced by itself, over HTTP and over gRPC, however long its
 * connection lives: NGINX ends the clients' connections and takes an upstream for each request (least connections
 * divided by weight). A request whose server cannot be reached, or goes away under it, is tried on the next one: inference
 * changes nothing, so that it may be computed twice. Where nobody answers, the client is told so as a refusal: 503 with
 * `Retry-After`, UNAVAILABLE.
 * All names and addresses are checked before they come here (`isTaskName`, fleet-file.ts): nothing is quoted.
 */
export function nginxConfig(routing: Routing, options: NginxConfigOptions): string {
  const { folder, grpc, grpcByTask = {}, user } = options;
  const pools = routing.tasks.map(({ task, servers }, i) => ({ task, servers, name: `task_${i}` }));
  const common = routing.all.filter(({ name }) =>
    routing.tasks.every(({ servers }) => servers.some((server) => server.name === name)),
  );
  const everyone = common.length > 0 ? common : routing.all;
  const grpcPools = [...pools, { task: undefined, servers: everyone, name: 'all' }].filter(({ servers }) =>
    servers.some((server) => server.grpc !== undefined),
  );
  const grpcNameOf = (task: string | undefined) =>
    grpcPools.find((pool) => pool.task === task)?.name ?? 'nobody';
  return [
    '# Written by bonsai orchestrate, which overwrites changes.',
    ...(user === undefined ? [] : [`user ${user};`]),
    `worker_processes ${options.workers};`,
    `pid ${folder}/nginx.pid;`,
    `error_log ${folder}/error.log warn;`,
    'worker_shutdown_timeout 120s;',
    'events { worker_connections 4096; }',
    'http {',
    ...indented([
      'access_log off;',
      'server_tokens off;',
      ...['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
        (kind) => `${kind}_temp_path ${folder}/temp/${kind};`,
      ),
      `client_max_body_size ${options.maxBodyBytes};`,
      'client_body_buffer_size 1m;',
      `keepalive_requests ${REQUESTS_PER_CONNECTION};`,
      ...retryRules('proxy'),
      ...tlsRules('proxy', options),
      'proxy_http_version 1.1;',
      'proxy_set_header Connection "";',
      // Health checks by HTTP/1.0 have no header of that name, without which servers refuse HTTP/1.1.
      'proxy_set_header Host $host;',
      'proxy_read_timeout 120s;',
      ...pools.flatMap(({ name, servers }) => upstream(`http_${name}`, servers, 'http')),
      ...upstream('http_all', routing.all, 'http'),
      ...httpServer(options, pools),
      ...(grpc === undefined && Object.keys(grpcByTask).length === 0
        ? []
        : [
            ...retryRules('grpc'),
            ...tlsRules('grpc', options),
            // Streams may be silent for long.
            'grpc_read_timeout 3600s;',
            'grpc_send_timeout 3600s;',
            ...grpcPools.flatMap(({ name, servers }) => upstream(`grpc_${name}`, servers, 'grpc')),
          ]),
      ...(grpc === undefined
        ? []
        : [
            `map $http_${TASK_HEADER.replaceAll('-', '_')} $grpc_pool {`,
            `  default grpc_${grpcNameOf(undefined)};`,
            // A regular expression: of plain names, some mean something else here (default, include, …).
            ...pools.map(({ task }) => `  ~^${task.replaceAll('.', '[.]')}$ grpc_${grpcNameOf(task)};`),
            '}',
            ...grpcServer(options, grpc, `${schemeOf('grpc', options)}://$grpc_pool`),
          ]),
      ...Object.entries(grpcByTask).flatMap(([task, listen]) =>
        grpcServer(
          options,
          listen,
          grpcNameOf(task) === 'nobody'
            ? undefined
            : `${schemeOf('grpc', options)}://grpc_${grpcNameOf(task)}`,
        ),
      ),
    ]),
    '}',
    '',
  ].join('\n');
}

function retryRules(module: 'proxy' | 'grpc'): string[] {
  return [
    `${module}_connect_timeout 1s;`,
    `${module}_next_upstream error timeout non_idempotent;`,
    `${module}_next_upstream_tries ${TRIES};`,
    // A request that computed for longer than this is not computed again.
    `${module}_next_upstream_timeout 5s;`,
  ];
}

/** NGINX believes no certificate unless it is told whom to trust, and does not look at it unless it is told to. */
function tlsRules(module: 'proxy' | 'grpc', { tls }: NginxConfigOptions): string[] {
  if (tls === undefined) return [];
  return [
    `${module}_ssl_verify on;`,
    `${module}_ssl_verify_depth ${TLS_VERIFY_DEPTH};`,
    `${module}_ssl_trusted_certificate ${tls.caFile};`,
    `${module}_ssl_name ${tls.name};`,
    `${module}_ssl_server_name on;`,
    `${module}_ssl_protocols TLSv1.2 TLSv1.3;`,
  ];
}

function schemeOf(protocol: 'http' | 'grpc', { tls }: NginxConfigOptions): string {
  return tls === undefined ? protocol : `${protocol}s`;
}

/** Servers with equal numbers of open requests per weight take turns by weight. State is common to all workers. */
function upstream(name: string, servers: readonly RoutedServer[], protocol: 'http' | 'grpc'): string[] {
  const lines = servers.flatMap((server) => {
    const address = server[protocol];
    return address === undefined
      ? []
      : [
          `  server ${address} weight=${server.weight} max_fails=1 fail_timeout=${FAIL_TIMEOUT_S}s; # ${server.name}`,
        ];
  });
  return [
    `upstream ${name} {`,
    `  zone ${name} ${64 + 4 * servers.length}k;`,
    '  least_conn;',
    // An upstream may not be empty; a port that is always closed refuses.
    ...(lines.length > 0 ? lines : ['  server 127.0.0.1:9 down;']),
    `  keepalive ${KEEPALIVE_CONNECTIONS};`,
    '}',
  ];
}

/**
 * In a reload NGINX closes idle connections at once, and a request that a client sends in that moment is lost: clients may
 * not repeat a POST on their own. From 1.27.4 on it can wait for such requests; before, each request of HTTP has a connection of its own
 * unless the user wants otherwise. HTTP/2 says which requests were not taken in, and gRPC clients send those again.
 */
function keepaliveRules({ version, keepsConnections }: NginxConfigOptions): string[] {
  const canWait = isAtLeast(version, [1, 27, 4]);
  if (!(keepsConnections ?? canWait)) return ['keepalive_timeout 0;'];
  return ['keepalive_timeout 75s;', ...(canWait ? ['keepalive_min_timeout 2s;'] : [])];
}

function httpServer(
  options: NginxConfigOptions,
  pools: readonly { readonly task: string; readonly name: string }[],
): string[] {
  const { http, generation } = options;
  const scheme = schemeOf('http', options);
  return [
    'server {',
    ...indented([
      `listen ${http};`,
      ...keepaliveRules(options),
      'default_type application/json;',
      'error_page 502 504 =503 @refused;',
      'location @refused {',
      '  internal;',
      '  add_header Retry-After 1 always;',
      '  return 503 \'{"error":"no server can answer this now"}\';',
      '}',
      `location = ${GENERATION_PATH} { default_type text/plain; return 200 "${generation}"; }`,
      // One of many servers would do it, and nobody would know which.
      `location ~ ${ADMINISTRATION.http} {`,
      '  return 404 \'{"error":"models and servers are administered by the orchestrator, not through the balancer"}\';',
      '}',
      ...pools.flatMap(({ task, name }) => [
        `location = /v2/models/${task} { proxy_pass ${scheme}://http_${name}; }`,
        `location /v2/models/${task}/ { proxy_pass ${scheme}://http_${name}; }`,
      ]),
      `location / { proxy_pass ${scheme}://http_all; }`,
    ]),
    '}',
  ];
}

function grpcServer(options: NginxConfigOptions, listen: string, target: string | undefined): string[] {
  const isDirective = isAtLeast(options.version, [1, 25, 1]);
  return [
    'server {',
    ...indented([
      isDirective ? `listen ${listen};` : `listen ${listen} http2;`,
      ...(isDirective ? ['http2 on;'] : []),
      // Connections and streams may be open for long without a message.
      'keepalive_timeout 3600s;',
      `keepalive_time ${GRPC_CONNECTION_S}s;`,
      'client_body_timeout 3600s;',
      'error_page 502 503 504 = @unavailable;',
      'location @unavailable {',
      '  internal;',
      '  default_type application/grpc;',
      '  add_header grpc-status 14;',
      '  add_header grpc-message "no server can answer this now";',
      '  return 200;',
      '}',
      // One of many servers would do it, and nobody would know which.
      `location ~ ${ADMINISTRATION.grpc} {`,
      '  default_type application/grpc;',
      '  add_header grpc-status 12;',
      '  add_header grpc-message "models and servers are administered by the orchestrator, not through the balancer";',
      '  return 200;',
      '}',
      `location / { ${target === undefined ? 'return 503' : `grpc_pass ${target}`}; }`,
    ]),
    '}',
  ];
}

function isAtLeast(version: NginxVersion, wanted: NginxVersion): boolean {
  for (const [i, part] of wanted.entries()) if (version[i] !== part) return version[i]! > part;
  return true;
}

function indented(lines: readonly string[]): string[] {
  return lines.map((line) => `  ${line}`);
}
