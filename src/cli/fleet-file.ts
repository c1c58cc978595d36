import { readFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { dirname, resolve } from 'node:path';
import { isNode, LineCounter, parseDocument } from 'yaml';
import { z } from 'zod';
import { BonsaiError, systemReason } from '../base/errors.ts';
import { isTaskName, MAX_TASK_NAME_LENGTH, TASK_PATTERN } from '../repository/names.ts';
import { isS3Url } from '../repository/s3/s3-url.ts';
import { parseDurationMs, parseMetricsUrl, parseServerUrl } from './parse.ts';

/** What a fleet's file says, checked; paths are absolute. docs/fleet.md describes it for users. */
export type FleetFile = z.output<typeof fleetSchema> & {
  readonly path: string;
  /** Of the file: what it names without a root lies there. */
  readonly folder: string;
  readonly state: string;
};
export type FleetFileServer = FleetFile['servers'][number];

export const fleetFileDefaults = {
  policy: 'plan',
  replicas: 2,
  periodMs: 1_000,
} as const;

/** Where Triton and Bonsai have their metrics. */
const METRICS_PORT = '8002';

/**
 * A field that `read` understands, else the complaint "should be EXPECTED".
 * @param schema what JSON Schema can say of it, for those who check before we do (custom resources of Kubernetes)
 */
export function field<T>(
  expected: string,
  read: (value: unknown) => T | undefined,
  schema: Readonly<Record<string, unknown>>,
) {
  const checked = z.unknown().transform((value, context): T => {
    const result = value === undefined ? undefined : read(value);
    if (result !== undefined) return result;
    const got = value === undefined ? 'is missing' : `is ${JSON.stringify(value).slice(0, 80)}`;
    context.addIssue({ code: 'custom', message: `${got}; expected ${expected}` });
    return z.NEVER;
  });
  return checked.meta({ description: `${expected[0]!.toUpperCase()}${expected.slice(1)}.`, ...schema });
}

/** @param parse throws for what is no such URL */
function urlField(expected: string, parse: (text: string) => string) {
  const read = (value: unknown) => {
    try {
      return parse(String(value));
    } catch {
      return undefined;
    }
  };
  return field(expected, read, { type: 'string', pattern: '^https?://.+$' });
}

export const text = (
  expected: string,
  isRight: (value: string) => boolean = () => true,
  schema: Readonly<Record<string, unknown>> = {},
) =>
  field(
    expected,
    (value) => (typeof value === 'string' && value !== '' && isRight(value) ? value : undefined),
    { type: 'string', minLength: 1, ...schema },
  );
export const number = (
  expected: string,
  isRight: (value: number) => boolean,
  schema: Readonly<Record<string, unknown>>,
) =>
  field(expected, (value) => (typeof value === 'number' && isRight(value) ? value : undefined), {
    type: 'number',
    ...schema,
  });
export const oneOf = <const T extends string>(...values: readonly T[]) =>
  field(`one of ${values.join(', ')}`, (value) => values.find((each) => each === value), {
    type: 'string',
    enum: [...values],
  });

export const name = text('a name of letters, digits, "_", "-" and "."', isTaskName, {
  pattern: TASK_PATTERN.source,
  maxLength: MAX_TASK_NAME_LENGTH,
});
export const duration = field(
  'a duration such as 200ms',
  (value) => {
    try {
      return typeof value === 'string' ? parseDurationMs(value) : undefined;
    } catch {
      return undefined; // The complaint says what is expected.
    }
  },
  { type: 'string', pattern: '^[0-9]+(\\.[0-9]+)?\\s*(ms|s|m|min|h)?$' },
);
export const size = field('a size such as 512MB or 2GiB, or a number of bytes', parseBytes, {
  anyOf: [{ type: 'integer' }, { type: 'string' }],
  pattern: '^[0-9]+(\\.[0-9]+)?\\s*[kMGT]?i?B?$',
});
const address = text(
  'HOST:PORT such as 127.0.0.1:8080',
  (value) => {
    const match = /^(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})$/.exec(value);
    return match !== null && Number(match[1]) >= 1 && Number(match[1]) <= 65_535;
  },
  { pattern: '^.+:[0-9]{1,5}$' },
);
const url = urlField('a URL such as http://127.0.0.1:8000, without a path', parseServerUrl);
const metricsUrl = urlField('a URL such as http://127.0.0.1:8002', parseMetricsUrl);

export const cpus = number('a number of cores above 0', (value) => value > 0 && value <= 4096, {
  exclusiveMinimum: 0,
  maximum: 4096,
});
export const replicas = number('a whole number from 1', (value) => Number.isInteger(value) && value >= 1, {
  type: 'integer',
  minimum: 1,
});

export const serverSchema = z.strictObject({
  name: name.optional(),
  url,
  kind: oneOf('bonsai', 'triton', 'v2').optional(),
  metrics: metricsUrl.optional(),
  grpc: address.optional(),
  cpus: cpus.optional(),
  memory: size.optional(),
  'token-file': text('a path').optional(),
  weight: number('a number above 0', (value) => value > 0 && value <= 1000, {
    exclusiveMinimum: 0,
    maximum: 1000,
  }).optional(),
  target: text('the fingerprint of a profiled target').optional(),
});

export const taskSchema = z.strictObject({
  name,
  slo: duration.optional(),
  weight: number('a number above 0', (value) => value > 0 && Number.isFinite(value), {
    exclusiveMinimum: 0,
  }).optional(),
  'min-accuracy': number('a normalised accuracy from 0 to 1', (value) => value >= 0 && value <= 1, {
    minimum: 0,
    maximum: 1,
  }).optional(),
  replicas: replicas.optional(),
  servers: z.array(name).min(1).optional(),
  grpc: address.optional(),
});

const nginxSchema = z.strictObject({
  kind: oneOf('nginx'),
  http: address,
  grpc: address.optional(),
  folder: text('a path').optional(),
  program: text('a program').optional(),
  workers: number(
    'a whole number from 1 to 256',
    (value) => Number.isInteger(value) && value >= 1 && value <= 256,
    { type: 'integer', minimum: 1, maximum: 256 },
  ).optional(),
  user: text('an account', (value) => /^[a-z_][a-z0-9_-]*$/.test(value)).optional(),
  'max-body': size.optional(),
  'keep-connections': field('true or false', (value) => (typeof value === 'boolean' ? value : undefined), {
    type: 'boolean',
  }).optional(),
});

const CERTIFICATE_NAME = '^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$';

/** It becomes part of NGINX' configuration, and NGINX compares no addresses. */
export const certificateName = text(
  'the name that the certificates of all servers have, such as edge.example',
  (value) => new RegExp(CERTIFICATE_NAME).test(value) && isIP(value) === 0,
  { pattern: CERTIFICATE_NAME, maxLength: 253 },
);

const tlsSchema = z.strictObject({
  ca: text('a path'),
  name: certificateName.optional(),
});

export const fleetSchema = z.strictObject({
  repository: text('the path of a model repository, or s3://BUCKET/PREFIX'),
  state: text('a path').optional(),
  policy: text('plan or the name of a policy').optional(),
  utilization: number('a share of the CPU above 0 and at most 0.9', (value) => value > 0 && value <= 0.9, {
    exclusiveMinimum: 0,
    maximum: 0.9,
  }).optional(),
  period: duration.optional(),
  balancer: z.union([oneOf('none'), nginxSchema]).optional(),
  tls: tlsSchema.optional(),
  servers: z.array(serverSchema).min(1),
  tasks: z.array(taskSchema).min(1).optional(),
});

/**
 * Reads and checks a fleet's file.
 * @throws BonsaiError `invalid_config` naming file, line and field, what is there and what is expected
 */
export async function readFleetFile(path: string): Promise<FleetFile> {
  let source: string;
  try {
    source = await readFile(path, 'utf8');
  } catch (cause) {
    throw new BonsaiError(
      'invalid_config',
      `The fleet's file ${path} cannot be read: ${systemReason(cause)}.`,
      {
        cause,
      },
    );
  }
  return parseFleetFile(source, path);
}

/** The same of text that was read from there. */
export function parseFleetFile(source: string, path: string): FleetFile {
  const counter = new LineCounter();
  const document = parseDocument(source, { lineCounter: counter });
  const lineOf = (keys: readonly PropertyKey[]): number => {
    // Of what is missing, the line of what it should be in.
    for (let length = keys.length; length > 0; length--) {
      const node = document.getIn(keys.slice(0, length), true);
      if (isNode(node) && node.range) return counter.linePos(node.range[0]).line;
    }
    return 1;
  };
  const fail = (keys: readonly PropertyKey[], problem: string) =>
    new BonsaiError('invalid_config', `${path}:${lineOf(keys)}: ${problem}`);
  const broken = document.errors[0];
  if (broken !== undefined) {
    throw new BonsaiError(
      'invalid_config',
      `${path}:${counter.linePos(broken.pos[0]).line}: ${broken.message}`,
    );
  }
  return checkFleet(document.toJS(), path, fail);
}

/**
 * What a fleet's file says, of a value that was read from there, or that says the same.
 * @param path of the file: paths in it are relative to its folder
 * @param fail makes the error of a complaint about a field
 * @param schema of fleets that may be without servers for a while, the one that allows that
 * @throws what `fail` makes
 */
export function checkFleet(
  value: unknown,
  path: string,
  fail: Fail,
  schema: typeof fleetSchema = fleetSchema,
): FleetFile {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw fail([], 'expected repository:, servers: and tasks:; see docs/fleet.md.');
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success) {
    const issue = firstIssue(parsed.error.issues, value);
    throw fail(issue.path, `${pathText(issue.path)}${issue.message}.`);
  }
  const file = parsed.data;
  checkTogether(file, fail);
  const folder = dirname(resolve(path));
  const within = (relative: string) => resolve(folder, relative);
  return {
    ...file,
    path: resolve(path),
    folder,
    repository: isS3Url(file.repository) ? file.repository : within(file.repository),
    tls: file.tls && { ...file.tls, ca: within(file.tls.ca) },
    state: within(file.state ?? `${path.replace(/^.*\//, '').replace(/\.ya?ml$/, '')}.state.json`),
    servers: file.servers.map((server) => ({
      ...server,
      'token-file': server['token-file'] && within(server['token-file']),
    })),
  };
}

interface Issue {
  readonly path: readonly PropertyKey[];
  readonly message: string;
}

/** The first complaint; of a union's members, that of the one that is meant. */
export function firstIssue(issues: readonly z.core.$ZodIssue[], value: object): Issue {
  const issue = issues[0]!;
  if (issue.code === 'unrecognized_keys') {
    const [key] = issue.keys;
    return { path: [...issue.path, key!], message: ` is not known here` };
  }
  if (issue.code === 'invalid_union') {
    // `balancer` is a map, or the word none.
    const given = (value as { balancer?: unknown }).balancer;
    const errors = issue.errors[typeof given === 'object' && given !== null ? 1 : 0] ?? [];
    const inner = firstIssue(errors, value);
    if (typeof given !== 'object')
      return {
        path: issue.path,
        message: ` is ${JSON.stringify(given)}; expected none, or a map with kind: nginx`,
      };
    return { path: [...issue.path, ...inner.path], message: inner.message };
  }
  if (issue.code === 'invalid_type')
    return { path: issue.path, message: ` should be ${issue.expected === 'array' ? 'a list' : 'a map'}` };
  if (issue.code === 'too_small')
    return { path: issue.path, message: ' is an empty list; expected at least one entry' };
  return { path: issue.path, message: ` ${issue.message}` };
}

/** `servers[0].cpus` */
export function pathText(path: readonly PropertyKey[]): string {
  return path.reduce<string>(
    (text, key) =>
      typeof key === 'number' ? `${text}[${key}]` : text === '' ? String(key) : `${text}.${String(key)}`,
    '',
  );
}

export type Fail = (keys: readonly PropertyKey[], problem: string) => BonsaiError;

function checkTogether(file: z.output<typeof fleetSchema>, fail: Fail): void {
  const names = file.servers.map(serverNameOf);
  const hosts = file.servers.map(({ url }) => new URL(url).host);
  for (const [i, own] of names.entries()) {
    if (names.indexOf(own) !== i)
      throw fail(['servers', i], `two servers are called ${own}; give them names of their own.`);
    const { url: origin, kind } = file.servers[i]!;
    const same = hosts.indexOf(hosts[i]!);
    if (same !== i)
      throw fail(
        ['servers', i, 'url'],
        `${own} and ${names[same]} are the same server (${origin}); its CPUs would count twice.`,
      );
    if (kind === 'v2' && file.servers[i]!.cpus === undefined)
      throw fail(['servers', i], `${own} is of kind v2, which does not tell its CPUs: give cpus.`);
    if (file.balancer === undefined || file.balancer === 'none') continue;
    if (origin.startsWith('https:') && file.tls?.name === undefined)
      throw fail(
        ['servers', i, 'url'],
        `${own} speaks TLS, and NGINX has to know whom to trust: give tls: with ca: and name:.`,
      );
    if (origin.startsWith('http:') && file.tls !== undefined)
      throw fail(
        ['servers', i, 'url'],
        `NGINX speaks TLS to all servers (tls:) or to none: give ${own} an https:// URL.`,
      );
  }
  const tasks = file.tasks ?? [];
  for (const [k, task] of tasks.entries()) {
    if (tasks.findIndex((other) => other.name === task.name) !== k)
      throw fail(['tasks', k, 'name'], `the task ${task.name} stands there twice.`);
    for (const [i, server] of (task.servers ?? []).entries())
      if (!names.includes(server))
        throw fail(
          ['tasks', k, 'servers', i],
          `there is no server ${server}; there are ${names.join(', ')}.`,
        );
  }
  if (file.balancer === undefined || file.balancer === 'none') return;
  const listening = [file.balancer.http, file.balancer.grpc, ...tasks.map(({ grpc }) => grpc)].filter(
    (own) => own !== undefined,
  );
  const twice = listening.find((own, i) => listening.indexOf(own) !== i);
  if (twice !== undefined)
    throw fail(['balancer'], `two things are to listen at ${twice}; give each an address of its own.`);
}

/** Its name, else its host and port. */
export function serverNameOf({
  name: given,
  url: origin,
}: {
  readonly name?: string;
  readonly url: string;
}): string {
  return given ?? new URL(origin).host.replace(/[^A-Za-z0-9._-]/g, '-').replace(/^[.-]+/, '');
}

/** HOST:PORT of a URL. */
export function addressOf(origin: string): string {
  const { hostname, port, protocol } = new URL(origin);
  return `${hostname}:${port || (protocol === 'https:' ? 443 : 80)}`;
}

/** The usual place of the metrics of a server. */
export function metricsOf({
  url: origin,
  metrics,
}: {
  readonly url: string;
  readonly metrics?: string;
}): string {
  if (metrics !== undefined) return metrics;
  const usual = new URL(origin);
  usual.port = METRICS_PORT;
  return usual.origin;
}

function parseBytes(value: unknown): number | undefined {
  if (typeof value === 'number') return Number.isInteger(value) && value > 0 ? value : undefined;
  const match = /^(\d+(?:\.\d+)?)\s*([kMGT])?(i)?B?$/.exec(typeof value === 'string' ? value.trim() : '');
  if (match === null) return undefined;
  const unit = match[3] === undefined ? 1000 : 1024;
  const bytes = Math.round(
    Number(match[1]) * unit ** (1 + 'kMGT'.indexOf(match[2] ?? '')) * (match[2] ? 1 : 1 / unit),
  );
  return bytes > 0 ? bytes : undefined;
}
