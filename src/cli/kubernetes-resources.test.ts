import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import type { KubernetesObject } from '../orchestrate/adapters/kubernetes/resources.ts';
import { definitionText } from './kubernetes.ts';
import {
  bonsaiDefinitions,
  checkFleetSpec,
  checkTaskSpec,
  fleetFileOf,
  poolsOf,
} from './kubernetes-resources.ts';

const crds = fileURLToPath(new URL('../../deploy/kubernetes/crds', import.meta.url));

const resource = (kind: 'Fleet' | 'Task', spec: object, name = 'edge'): KubernetesObject => ({
  apiVersion: 'bonsai.dev/v1alpha1',
  kind,
  metadata: { name, namespace: 'shop' },
  spec,
});
const volume = { persistentVolumeClaim: { claimName: 'models' } };
const pool = { name: 'small', cpus: 0.5, memory: '512MiB' };
/** That of the documentation. */
const [ca = ''] =
  /-----BEGIN CERTIFICATE-----\n[\s\S]*?-----END CERTIFICATE-----/.exec(
    readFileSync(fileURLToPath(new URL('../../docs/kubernetes.md', import.meta.url)), 'utf8').replaceAll(
      /^ +/gm,
      '',
    ),
  ) ?? [];
const found = {
  name: 'edge-small-1',
  pool: 'small',
  url: 'http://10.0.0.7:8000',
  metrics: 'http://10.0.0.7:8002',
  grpc: '10.0.0.7:8001',
};

describe('custom resource definitions', () => {
  test('lie in deploy/ as `bonsai kubernetes crds` prints them', () => {
    const files = Object.fromEntries(
      readdirSync(crds).map((file) => [file, readFileSync(join(crds, file), 'utf8')]),
    );
    expect(files).toEqual(
      Object.fromEntries(
        bonsaiDefinitions().map((crd) => [`${crd.metadata.name}.yaml`, definitionText(crd)]),
      ),
    );
  });

  test('are structural: every field has a type, and nothing stands there that Kubernetes refuses', () => {
    const wrong: string[] = [];
    const visit = (schema: Record<string, unknown>, path: string) => {
      const isUnion = schema['x-kubernetes-int-or-string'] === true;
      if (schema.type === undefined && !isUnion) wrong.push(`${path} has no type`);
      if (schema.anyOf !== undefined && !isUnion) wrong.push(`${path} is a union`);
      for (const key of ['$schema', '$ref', 'const', 'propertyNames'])
        if (key in schema) wrong.push(`${path} has ${key}`);
      if (schema.additionalProperties === false) wrong.push(`${path} forbids fields`);
      if (schema.exclusiveMinimum !== undefined && typeof schema.exclusiveMinimum !== 'boolean')
        wrong.push(`${path} has a bound as in JSON Schema`);
      for (const [key, part] of Object.entries(
        (schema.properties ?? {}) as Record<string, Record<string, unknown>>,
      ))
        visit(part, `${path}.${key}`);
      if (schema.items !== undefined) visit(schema.items as Record<string, unknown>, `${path}[]`);
    };
    for (const { spec, metadata } of bonsaiDefinitions()) {
      const [version] = (spec as { versions: { schema: { openAPIV3Schema: Record<string, unknown> } }[] })
        .versions;
      visit(version!.schema.openAPIV3Schema, metadata.name);
    }
    expect(wrong).toEqual([]);
  });
});

test('the examples of the documentation are accepted', () => {
  const root = fileURLToPath(new URL('../..', import.meta.url));
  const documentation = readFileSync(join(root, 'docs/kubernetes.md'), 'utf8');
  const texts = [
    readFileSync(join(root, 'deploy/kubernetes/example.yaml'), 'utf8'),
    ...[...documentation.matchAll(/```yaml\n([\s\S]*?)```/g)].map((match) => match[1]!),
  ];
  const resources = texts
    .flatMap((text) => parseAllDocuments(text).map((document) => document.toJS() as KubernetesObject))
    .filter(({ apiVersion }) => apiVersion === 'bonsai.dev/v1alpha1');
  expect(resources.map(({ kind }) => kind)).toEqual(['Fleet', 'Task', 'Fleet', 'Task', 'Fleet']);
  expect(checkFleetSpec(resources[4]!).tls).toMatchObject({ name: 'edge.example', secret: 'edge-tls' });
  const [first, second] = [resources.slice(0, 2), resources.slice(2, 4)];
  for (const [fleet, task] of [first, second])
    expect(fleetFileOf(fleet!, [task!], [], '/models').tasks).toHaveLength(1);
});

test('the chart brings the same definitions', () => {
  const chart = fileURLToPath(new URL('../../deploy/helm/bonsai/crds', import.meta.url));
  for (const file of readdirSync(crds))
    expect(readFileSync(join(chart, file), 'utf8')).toBe(readFileSync(join(crds, file), 'utf8'));
});

describe('a Fleet', () => {
  test('says the same as the file of a fleet', () => {
    const fleet = resource('Fleet', {
      policy: 'trivial',
      utilization: 0.6,
      period: '2s',
      volume,
      pools: [{ ...pool, weight: 0.5, target: 'small-1' }],
      servers: [{ name: 'triton', url: 'http://10.0.0.9:8000', kind: 'triton' }],
    });
    const task = resource(
      'Task',
      { fleet: 'edge', slo: '200ms', minAccuracy: 0.9, servers: ['small', 'triton'] },
      'digits',
    );
    const waiting = resource('Task', { fleet: 'edge', name: 'Signs_2', servers: ['small'] }, 'signs');
    expect(fleetFileOf(fleet, [task], [found], '/models')).toMatchObject({
      repository: '/models',
      policy: 'trivial',
      utilization: 0.6,
      period: 2000,
      servers: [
        {
          name: 'edge-small-1',
          url: found.url,
          grpc: found.grpc,
          cpus: 0.5,
          memory: 512 * 1024 ** 2,
          weight: 0.5,
          target: 'small-1',
        },
        { name: 'triton', kind: 'triton' },
      ],
      tasks: [{ name: 'digits', slo: 200, 'min-accuracy': 0.9, servers: ['edge-small-1', 'triton'] }],
    });
    // A pool without servers yet: the task waits, and does not run elsewhere.
    expect(fleetFileOf(fleet, [waiting], [], '/models').tasks).toMatchObject([
      { name: 'Signs_2', servers: [] },
    ]);
    expect(poolsOf(checkFleetSpec(fleet))).toMatchObject([
      { name: 'small', cpus: 0.5, memoryBytes: 512 * 1024 ** 2 },
    ]);
  });

  test.each([
    [{}, 'a fleet needs servers: give pools (made here) or servers (that exist)'],
    [{ pools: [pool] }, 'spec.volume: pools need the volume with the models'],
    [{ pools: [pool, pool], volume }, 'spec.pools[1]: two pools are called small'],
    [
      { pools: [{ ...pool, cpus: 0 }], volume },
      'spec.pools[0].cpus is 0; expected a number of cores above 0',
    ],
    [
      { pools: [{ ...pool, name: 'Small' }], volume },
      'spec.pools[0].name is "Small"; expected a name of at most 20',
    ],
    [
      { pools: [pool], volume, repository: '../etc' },
      'spec.repository is "../etc"; expected a path below the volume',
    ],
    [{ pools: [pool], volume, repository: '/etc' }, 'spec.repository is "/etc"'],
    [
      { pools: [pool], volume, tls: { ca: '/etc/ca.pem' } },
      'spec.tls.ca is "/etc/ca.pem"; expected certificates as PEM',
    ],
    [
      { pools: [pool], volume, tls: { ca, name: '10.0.0.7' } },
      'spec.tls.name is "10.0.0.7"; expected the name',
    ],
    [
      { pools: [pool], volume, tls: { ca, secret: 'edge-tls' } },
      'spec.tls.name: servers of pools are reached by addresses',
    ],
    [
      { pools: [pool], volume, runtime: 'kserve', tls: { ca, name: 'edge.example', secret: 'edge-tls' } },
      'spec.tls.secret: KServe speaks to its servers without TLS',
    ],
    [{ pools: [pool], volume, replicas: 2 }, 'spec.replicas is not known here'],
    [
      { servers: [{ url: 'http://a', 'token-file': '/etc/passwd' }] },
      'spec.servers[0].token-file is not known here',
    ],
  ])('that cannot be is refused with its field: %j', (spec, complaint) => {
    expect(() => checkFleetSpec(resource('Fleet', spec))).toThrow(`Fleet shop/edge: ${complaint}`);
  });

  test('is named in complaints about what belongs together', () => {
    const fleet = resource('Fleet', { servers: [{ url: 'http://a:1', kind: 'v2' }] });
    expect(() => fleetFileOf(fleet, [], [], '/models')).toThrow(
      'Fleet shop/edge: servers[0]: a-1 is of kind v2',
    );
  });
});

test.each([
  [{}, 'spec.fleet is missing; expected a name'],
  [{ fleet: 'edge', slo: '0ms' }, 'spec.slo is "0ms"; expected a duration such as 200ms'],
  [{ fleet: 'edge', name: '../x' }, 'spec.name is "../x"; expected a name of letters'],
  [{ fleet: 'edge', 'min-accuracy': 1 }, 'spec.min-accuracy is not known here'],
])('a Task that cannot be is refused with its field: %j', (spec, complaint) => {
  expect(() => checkTaskSpec(resource('Task', spec))).toThrow(`Task shop/edge: ${complaint}`);
});
