import {
  apiVersionOf,
  BONSAI_GROUP,
  FLEETS,
  type KubernetesObject,
  type Resource,
  TASKS,
} from './resources.ts';

/** A schema of JSON Schema (2020-12), as `z.toJSONSchema` writes it. */
export type JsonSchema = Readonly<Record<string, unknown>>;

/**
 * The custom resource definitions of Bonsai, with the specs' schemas given.
 * Source: apiextensions.k8s.io/v1, "structural schemas".
 */
export function customResourceDefinitions(specs: {
  readonly fleet: JsonSchema;
  readonly task: JsonSchema;
}): KubernetesObject[] {
  return [
    definition(FLEETS, {
      description: 'Servers that are run as one: what they serve is planned, switched and routed together.',
      maxNameLength: 40,
      spec: {
        ...structural(specs.fleet),
        'x-kubernetes-validations': [
          {
            rule: '(has(self.pools) && size(self.pools) > 0) || (has(self.servers) && size(self.servers) > 0)',
            message: 'a fleet needs servers: give pools (made here) or servers (that exist)',
          },
          {
            rule: '!has(self.pools) || size(self.pools) == 0 || has(self.volume)',
            message: 'pools need the volume with the models',
          },
        ],
      },
      status: FLEET_STATUS,
      columns: [
        column('Ready', 'string', '.status.conditions[?(@.type=="Ready")].status'),
        column('Servers', 'string', '.status.serversReady'),
        column('Tasks', 'string', '.status.tasksReady'),
        column('CPU', 'string', '.status.utilization'),
        column('Accuracy', 'string', '.status.accuracy'),
        column('Age', 'date', '.metadata.creationTimestamp'),
        column('Why', 'string', '.status.conditions[?(@.type=="Ready")].message', 1),
      ],
    }),
    definition(TASKS, {
      description: 'One prediction problem that clients call by name, served by the servers of a fleet.',
      maxNameLength: 63,
      spec: structural(specs.task),
      status: TASK_STATUS,
      columns: [
        column('Fleet', 'string', '.spec.fleet'),
        column('Ready', 'string', '.status.conditions[?(@.type=="Ready")].status'),
        column('Servers', 'integer', '.status.servers'),
        column('Versions', 'string', '.status.versions'),
        column('Demand', 'string', '.status.demand'),
        column('Age', 'date', '.metadata.creationTimestamp'),
        column('Why', 'string', '.status.conditions[?(@.type=="Ready")].message', 1),
      ],
    }),
  ];
}

interface Definition {
  readonly description: string;
  /** Names of what is made for it are made of its own, and have 63 characters. */
  readonly maxNameLength: number;
  readonly spec: JsonSchema;
  readonly status: JsonSchema;
  readonly columns: readonly object[];
}

function definition(
  resource: Resource,
  { description, maxNameLength, spec, status, columns }: Definition,
): KubernetesObject {
  const { kind, plural, version } = resource;
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: `${plural}.${BONSAI_GROUP}` },
    spec: {
      group: BONSAI_GROUP,
      scope: 'Namespaced',
      names: { kind, listKind: `${kind}List`, plural, singular: kind.toLowerCase(), categories: ['bonsai'] },
      versions: [
        {
          name: version,
          served: true,
          storage: true,
          subresources: { status: {} },
          additionalPrinterColumns: columns,
          schema: {
            openAPIV3Schema: {
              type: 'object',
              description,
              required: ['spec'],
              'x-kubernetes-validations': [
                {
                  rule: `self.metadata.name.size() <= ${maxNameLength} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')`,
                  message: `the name needs at most ${maxNameLength} small letters, digits and "-", beginning with a letter`,
                },
              ],
              properties: {
                apiVersion: { type: 'string', description: `Always ${apiVersionOf(resource)}.` },
                kind: { type: 'string', description: `Always ${kind}.` },
                metadata: { type: 'object' },
                spec,
                status,
              },
            },
          },
        },
      ],
    },
  };
}

function column(name: string, type: string, jsonPath: string, priority = 0): object {
  return { name, type, jsonPath, ...(priority > 0 && { priority }) };
}

/**
 * What Kubernetes accepts of a JSON Schema: bounds that are excluded are flags beside the bound, and unknown fields
 * are not forbidden but pruned (with a warning by its clients).
 */
export function structural(schema: JsonSchema): JsonSchema {
  const { $schema: _, additionalProperties, exclusiveMinimum, properties, items, anyOf, ...rest } = schema;
  return {
    ...rest,
    ...(typeof exclusiveMinimum === 'number' && { minimum: exclusiveMinimum, exclusiveMinimum: true }),
    ...(additionalProperties !== undefined && additionalProperties !== false && { additionalProperties }),
    ...(properties !== undefined && {
      properties: Object.fromEntries(
        Object.entries(properties as Readonly<Record<string, JsonSchema>>).map(([name, property]) => [
          name,
          structural(property),
        ]),
      ),
    }),
    ...(items !== undefined && { items: structural(items as JsonSchema) }),
    // The one union that structural schemas have.
    ...(anyOf !== undefined && { anyOf, 'x-kubernetes-int-or-string': true }),
  };
}

const text = (description: string) => ({ type: 'string', description });
const count = (description: string) => ({ type: 'integer', description });

const CONDITIONS = {
  type: 'array',
  'x-kubernetes-list-type': 'map',
  'x-kubernetes-list-map-keys': ['type'],
  items: {
    type: 'object',
    required: ['type', 'status', 'lastTransitionTime', 'reason', 'message'],
    properties: {
      type: { type: 'string' },
      status: { type: 'string', enum: ['True', 'False', 'Unknown'] },
      observedGeneration: { type: 'integer', format: 'int64' },
      lastTransitionTime: { type: 'string', format: 'date-time' },
      reason: { type: 'string' },
      message: { type: 'string' },
    },
  },
};

const OBSERVED = {
  observedGeneration: { type: 'integer', format: 'int64', description: 'The spec that this is about.' },
  conditions: CONDITIONS,
};

const FLEET_STATUS = {
  type: 'object',
  properties: {
    ...OBSERVED,
    serversReady: text('Servers that are up, of all: 2/3.'),
    tasksReady: text('Tasks that somebody serves, of all: 3/3.'),
    utilization: text('CPU planned, of all CPU: 57 %.'),
    accuracy: text('Normalised accuracy that is planned: 96.1 %.'),
    reason: text('Of the plan, with its numbers.'),
    pools: {
      type: 'array',
      'x-kubernetes-list-type': 'map',
      'x-kubernetes-list-map-keys': ['name'],
      items: {
        type: 'object',
        required: ['name'],
        properties: {
          name: { type: 'string' },
          readyReplicas: count('Servers of the pool that are up.'),
          replicasForDemand: count('Servers that the demand needs with the quickest versions.'),
          replicasForAccuracy: count('Servers with which every task could have its most accurate version.'),
        },
      },
    },
    servers: {
      type: 'array',
      'x-kubernetes-list-type': 'map',
      'x-kubernetes-list-map-keys': ['name'],
      description: 'The first 100.',
      items: {
        type: 'object',
        required: ['name'],
        properties: {
          name: { type: 'string' },
          health: { type: 'string', enum: ['up', 'down', 'unknown'] },
          trouble: text('Why it is down.'),
          change: text('What is under way there: switch mnist 3 -> 2.'),
          tasks: {
            type: 'array',
            'x-kubernetes-list-type': 'map',
            'x-kubernetes-list-map-keys': ['task'],
            items: {
              type: 'object',
              required: ['task'],
              properties: {
                task: { type: 'string' },
                version: count('That serves.'),
                plannedVersion: count('That is to serve.'),
                weight: count("Of the task's requests, relative to the other servers."),
              },
            },
          },
        },
      },
    },
  },
};

const TASK_STATUS = {
  type: 'object',
  properties: {
    ...OBSERVED,
    servers: count('That serve it.'),
    versions: text('That serve, most accurate first: 1, 4.'),
    demand: text('That is planned for: 12 req/s.'),
  },
};
