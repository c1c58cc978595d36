import { X509Certificate } from 'node:crypto';
import { z } from 'zod';
import { BonsaiError } from '../base/errors.ts';
import { customResourceDefinitions, type JsonSchema } from '../orchestrate/adapters/kubernetes/crds.ts';
import type { PoolSpec } from '../orchestrate/adapters/kubernetes/fleet-spec.ts';
import type { KubernetesObject } from '../orchestrate/adapters/kubernetes/resources.ts';
import {
  certificateName,
  checkFleet,
  cpus,
  type FleetFile,
  field,
  firstIssue,
  fleetSchema,
  name,
  number,
  oneOf,
  pathText,
  replicas,
  serverNameOf,
  serverSchema,
  size,
  taskSchema,
  text,
} from './fleet-file.ts';

/** Bounds on lists, which the API server needs to bound the cost of its checks. */
const MAX_POOLS = 32;
const MAX_SERVERS = 256;

const SECRET_NAME = '^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$';
const DNS_LABEL = '^[a-z]([-a-z0-9]*[a-z0-9])?$';
const dnsLabel = (maxLength: number) =>
  text(
    `a name of at most ${maxLength} small letters, digits and "-", beginning with a letter`,
    (value) => value.length <= maxLength && new RegExp(DNS_LABEL).test(value),
    { pattern: DNS_LABEL, maxLength },
  );

const isMap = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** What Kubernetes itself describes and checks: it is handed on as it is. */
const handedOn = (expected: string) =>
  field(expected, (value) => (isMap(value) ? value : undefined), {
    type: 'object',
    'x-kubernetes-preserve-unknown-fields': true,
  });

const poolSchema = z.strictObject({
  name: dnsLabel(20),
  replicas: number('a whole number from 0', (value) => Number.isInteger(value) && value >= 0, {
    type: 'integer',
    minimum: 0,
    description: 'How many servers; left out where an autoscaler of pods decides.',
  }).optional(),
  cpus,
  memory: size,
  weight: serverSchema.shape.weight,
  target: serverSchema.shape.target,
  nodeSelector: field(
    'a map of labels',
    (value) =>
      isMap(value) && Object.values(value).every((label) => typeof label === 'string')
        ? (value as Record<string, string>) // Checked just before.
        : undefined,
    { type: 'object', additionalProperties: { type: 'string' } },
  ).optional(),
  tolerations: z.array(handedOn('a toleration of a pod')).max(16).optional(),
});

/** A segment begins with a letter or digit: so there is no "..", and nothing hidden. */
const REPOSITORY = '^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$';

/** As PEM. They are public, so they stand in the Fleet itself, and the controller has to read no Secrets. */
const authorities = text(
  'certificates as PEM, of authorities or of the servers themselves',
  (value) => {
    try {
      return new X509Certificate(value) !== undefined;
    } catch {
      return false;
    }
  },
  { pattern: '-----BEGIN CERTIFICATE-----', maxLength: 65_536 },
);

const tlsSchema = z.strictObject({
  ca: authorities,
  name: certificateName.optional(),
  secret: field(
    'the name of a Secret of type kubernetes.io/tls',
    (value) => (typeof value === 'string' && new RegExp(SECRET_NAME).test(value) ? value : undefined),
    {
      type: 'string',
      pattern: SECRET_NAME,
      maxLength: 253,
      description: 'With it the servers of pools speak TLS, by its tls.crt and tls.key.',
    },
  ).optional(),
});

const fleetSpecSchema = z.strictObject({
  repository: text(
    'a path below the volume of models, such as edge',
    (value) => new RegExp(REPOSITORY).test(value),
    {
      pattern: REPOSITORY,
      maxLength: 256,
      description:
        'Where the model repository lies below the volume of models; the volume itself if left out.',
    },
  ).optional(),
  policy: text('plan or the name of a policy', (value) => /^[a-z][a-z0-9-]*$/.test(value), {
    pattern: '^[a-z][a-z0-9-]*$',
  }).optional(),
  utilization: fleetSchema.shape.utilization,
  period: fleetSchema.shape.period,
  runtime: oneOf('bonsai', 'kserve').optional(),
  image: text('an image of a container', () => true, { maxLength: 512 }).optional(),
  volume: handedOn(
    'a volume source of Kubernetes with the models, such as persistentVolumeClaim: {claimName: models}',
  ).optional(),
  tokenSecret: dnsLabel(63).optional(),
  tls: tlsSchema.optional(),
  pools: z.array(poolSchema).max(MAX_POOLS).optional(),
  servers: z
    .array(serverSchema.omit({ 'token-file': true }))
    .max(MAX_SERVERS)
    .optional(),
});

const taskSpecSchema = z.strictObject({
  fleet: dnsLabel(40),
  name: name.optional(),
  slo: taskSchema.shape.slo,
  weight: taskSchema.shape.weight,
  minAccuracy: taskSchema.shape['min-accuracy'],
  replicas: replicas.optional(),
  servers: taskSchema.shape.servers,
});

/** Pools may have no servers yet. */
const growingFleetSchema = fleetSchema.extend({ servers: z.array(serverSchema) });

/** What is written in a spec, as it stands there: what it means, `checkFleet` says. */
export type FleetResourceSpec = z.input<typeof fleetSpecSchema>;
type TaskResourceSpec = z.output<typeof taskSpecSchema>;

/** The custom resource definitions, with the schemas that resources are checked by here too. */
export function bonsaiDefinitions(): KubernetesObject[] {
  const schemaOf = (schema: z.ZodType): JsonSchema => ({
    ...z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }),
  });
  const fleet = schemaOf(fleetSpecSchema) as {
    // As written above.
    readonly properties: { readonly pools: object; readonly servers: { readonly items: object } };
  };
  return customResourceDefinitions({
    fleet: {
      ...fleet,
      properties: {
        ...fleet.properties,
        pools: {
          ...fleet.properties.pools,
          'x-kubernetes-list-type': 'map',
          'x-kubernetes-list-map-keys': ['name'],
        },
        servers: {
          ...fleet.properties.servers,
          items: {
            ...fleet.properties.servers.items,
            'x-kubernetes-validations': [
              {
                rule: "!has(self.kind) || self.kind != 'v2' || has(self.cpus)",
                message: 'a server of kind v2 does not tell its CPUs: give cpus',
              },
            ],
          },
        },
      },
    },
    task: schemaOf(taskSpecSchema),
  });
}

/** A Fleet as it was checked. */
export type CheckedFleetSpec = z.output<typeof fleetSpecSchema>;

/** @throws BonsaiError `invalid_config` naming the resource and its field */
export function checkFleetSpec(fleet: KubernetesObject): CheckedFleetSpec {
  const spec = checked(fleetSpecSchema, fleet);
  if ((spec.pools?.length ?? 0) + (spec.servers?.length ?? 0) === 0)
    throw complaint(fleet, 'a fleet needs servers: give pools (made here) or servers (that exist)');
  const names = spec.pools?.map((pool) => pool.name) ?? [];
  if (names.length > 0 && spec.volume === undefined)
    throw complaint(fleet, 'spec.volume: pools need the volume with the models');
  if (spec.tls?.secret !== undefined && spec.tls.name === undefined)
    throw complaint(
      fleet,
      'spec.tls.name: servers of pools are reached by addresses, so their certificates need a name that is theirs',
    );
  if (spec.tls?.secret !== undefined && spec.runtime === 'kserve')
    throw complaint(
      fleet,
      'spec.tls.secret: KServe speaks to its servers without TLS; leave it out, or runtime: kserve',
    );
  for (const [i, own] of names.entries())
    if (names.indexOf(own) !== i) throw complaint(fleet, `spec.pools[${i}]: two pools are called ${own}`);
  return spec;
}

/** @throws BonsaiError `invalid_config` naming the resource and its field */
export function checkTaskSpec(task: KubernetesObject): TaskResourceSpec {
  return checked(taskSpecSchema, task);
}

export function poolsOf({ pools = [] }: CheckedFleetSpec): PoolSpec[] {
  return pools.map(({ memory, ...pool }) => ({ ...pool, memoryBytes: memory }));
}

/** A server that was found in the cluster. */
export interface FoundServer {
  readonly name: string;
  readonly pool: string;
  readonly url: string;
  readonly metrics: string;
  readonly grpc: string;
  readonly tokenFile?: string;
}

/**
 * A Fleet with its Tasks and the servers of its pools, as the fleet's file that says the same.
 * @param repository the absolute path of the model repository
 * @throws BonsaiError `invalid_config` naming the resource and its field
 */
export function fleetFileOf(
  fleet: KubernetesObject,
  tasks: readonly KubernetesObject[],
  found: readonly FoundServer[],
  repository: string,
): FleetFile {
  checkFleetSpec(fleet);
  const spec = fleet.spec as FleetResourceSpec; // Checked just before; here it is read as it was written.
  const pools = new Map((spec.pools as { name: string }[] | undefined)?.map((pool) => [pool.name, pool]));
  const value = {
    repository,
    ...(spec.policy !== undefined && { policy: spec.policy }),
    ...(spec.utilization !== undefined && { utilization: spec.utilization }),
    ...(spec.period !== undefined && { period: spec.period }),
    servers: [
      ...found.map(({ pool, tokenFile, ...server }) => {
        const { cpus, memory, weight, target } = (pools.get(pool) ?? {}) as Record<string, unknown>;
        return defined({ ...server, 'token-file': tokenFile, cpus, memory, weight, target });
      }),
      ...(spec.servers ?? []),
    ],
    ...(tasks.length > 0 && { tasks: tasks.map(taskOf) }),
  };
  const fail = (keys: readonly PropertyKey[], problem: string) =>
    complaint(fleet, `${pathText(keys)}: ${problem}`);
  const file = checkFleet(value, nameOf(fleet), fail, growingFleetSchema);
  // Pools stand for the servers in them, which may be none yet: then the task has to wait.
  const others = new Set(file.servers.map(serverNameOf));
  const within = (task: KubernetesObject) =>
    checkTaskSpec(task).servers?.flatMap((own) => {
      if (pools.has(own)) return found.filter(({ pool }) => pool === own).map((server) => server.name);
      if (others.has(own)) return [own];
      throw complaint(
        task,
        `spec.servers: ${nameOf(fleet)} has no pool and no server ${own}; it has ${[...pools.keys(), ...others].join(', ')}`,
      );
    });
  return {
    ...file,
    ...(file.tasks !== undefined && {
      tasks: file.tasks.map((task, k) => ({ ...task, servers: within(tasks[k]!) })),
    }),
  };
}

/** But for the servers. */
function taskOf(task: KubernetesObject): object {
  checkTaskSpec(task);
  const { fleet: _, servers: __, minAccuracy, ...spec } = task.spec as Record<string, unknown>; // Checked just before.
  return defined({ name: task.metadata.name, ...spec, 'min-accuracy': minAccuracy });
}

function defined(value: Readonly<Record<string, unknown>>): object {
  return Object.fromEntries(Object.entries(value).filter(([, part]) => part !== undefined));
}

function checked<T extends z.ZodType>(schema: T, resource: KubernetesObject): z.output<T> {
  const spec = resource.spec ?? {};
  const parsed = schema.safeParse(spec);
  if (parsed.success) return parsed.data;
  const issue = firstIssue(parsed.error.issues, spec);
  throw complaint(resource, `spec.${pathText(issue.path)}${issue.message}`);
}

function complaint(resource: KubernetesObject, problem: string): BonsaiError {
  return new BonsaiError('invalid_config', `${nameOf(resource)}: ${problem.replace(/\.$/, '')}.`);
}

/** `Fleet edge/traffic` */
function nameOf({ kind, metadata }: KubernetesObject): string {
  return `${kind} ${metadata.namespace ?? 'default'}/${metadata.name}`;
}
