import { expect, test } from 'vitest';
import type { FleetSpec } from './fleet-spec.ts';
import { manifestsOf, serverServices } from './manifests.ts';
import { knownSlice, podsOf } from './pods.ts';
import type { KubernetesObject } from './resources.ts';
import { servicesOf, taskServiceName } from './task-services.ts';

const fleet: KubernetesObject = {
  apiVersion: 'bonsai.dev/v1alpha1',
  kind: 'Fleet',
  metadata: { name: 'edge', namespace: 'shop', uid: 'u1' },
};
const spec: FleetSpec = {
  runtime: 'bonsai',
  image: 'bonsai:1',
  repository: '',
  volume: { persistentVolumeClaim: { claimName: 'models' } },
  tokenSecret: 'token',
  pools: [
    { name: 'arm', cpus: 0.5, memoryBytes: 2 ** 29, nodeSelector: { arch: 'arm64' } },
    { name: 'x86', cpus: 3.6, memoryBytes: 2 ** 30, replicas: 4 },
  ],
  policy: undefined,
  utilization: undefined,
  periodMs: 1000,
};
// biome-ignore lint/suspicious/noExplicitAny: specs are examined freely.
const specOf = (object: KubernetesObject): any => object.spec;

test('each pool has servers, addresses and a bound on disruptions, owned by the fleet', () => {
  const made = manifestsOf(fleet, spec);
  expect(made.map(({ object }) => `${object.kind} ${object.metadata.name}`)).toEqual([
    ...['Deployment edge-arm', 'Service edge-arm', 'PodDisruptionBudget edge-arm'],
    ...['Deployment edge-x86', 'Service edge-x86', 'PodDisruptionBudget edge-x86'],
  ]);
  for (const { object } of made)
    expect(object.metadata.ownerReferences).toEqual([expect.objectContaining({ kind: 'Fleet', uid: 'u1' })]);
  const [arm, , , x86] = made.map(({ object }) => specOf(object));
  // Without a number the autoscaler's stays.
  expect(['replicas' in arm, x86.replicas]).toEqual([false, 4]);
  expect(arm.template.spec.nodeSelector).toEqual({ arch: 'arm64' });
  const slots = ({ template }: typeof arm) => template.spec.containers[0].args.at(-1);
  expect([slots(arm), slots(x86)]).toEqual(['1', '4']);
});

test('pods are as the restricted standard of Kubernetes wants them', () => {
  const pod = specOf(manifestsOf(fleet, spec)[0]!.object).template.spec;
  expect(pod.securityContext).toMatchObject({
    runAsNonRoot: true,
    seccompProfile: { type: 'RuntimeDefault' },
  });
  for (const { securityContext } of pod.containers)
    expect(securityContext).toEqual({
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
    });
  expect(pod.automountServiceAccountToken).toBe(false);
});

test('servers speak TLS where the fleet names a Secret for it, and are probed so', () => {
  const pod = specOf(manifestsOf(fleet, { ...spec, tlsSecret: 'edge-tls' })[0]!.object).template.spec;
  const [container] = pod.containers;
  expect(container.args.join(' ')).toContain(
    '--tls-cert /etc/bonsai-tls/tls.crt --tls-key /etc/bonsai-tls/tls.key',
  );
  expect(pod.volumes).toContainEqual({ name: 'tls', secret: { secretName: 'edge-tls', defaultMode: 0o440 } });
  expect(container.volumeMounts).toContainEqual({
    name: 'tls',
    mountPath: '/etc/bonsai-tls',
    readOnly: true,
  });
  for (const probe of ['livenessProbe', 'readinessProbe', 'startupProbe'])
    expect(container[probe].httpGet.scheme).toBe('HTTPS');
  expect(JSON.stringify(manifestsOf(fleet, spec))).not.toMatch(/tls|HTTPS/);
});

test('on KServe a pool is a runtime and a service of a fixed size, found by its predictor', () => {
  const kserve = { ...spec, runtime: 'kserve' as const };
  const made = manifestsOf(fleet, kserve).map(({ object }) => object);
  expect(made.map(({ apiVersion, kind }) => `${apiVersion} ${kind}`).slice(0, 2)).toEqual([
    'serving.kserve.io/v1alpha1 ServingRuntime',
    'serving.kserve.io/v1beta1 InferenceService',
  ]);
  expect(made[1]!.metadata.annotations).toEqual({ 'serving.kserve.io/deploymentMode': 'RawDeployment' });
  expect(specOf(made[3]!).predictor).toMatchObject({
    minReplicas: 4,
    maxReplicas: 4,
    model: { modelFormat: { name: 'bonsai' }, runtime: 'edge-x86' },
  });
  expect(specOf(made[0]!).containers[0].name).toBe('kserve-container');
  expect([...serverServices(fleet, kserve)]).toEqual([
    ['edge-arm-predictor', 'arm'],
    ['edge-x86-predictor', 'x86'],
  ]);
});

test('a pod joins when it is ready, and stays through a failed probe until it ends', () => {
  const slice = (conditions: object) =>
    knownSlice({
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: { name: 's', namespace: 'shop', labels: { 'kubernetes.io/service-name': 'edge-arm' } },
      addressType: 'IPv6',
      ports: [{ name: 'http', port: 9000 }],
      endpoints: [{ addresses: ['fd00::7'], conditions, targetRef: { kind: 'Pod', name: 'p' } }],
    })!;
  const services = serverServices(fleet, spec);
  const found = (conditions: object, before: string[] = [], namespace = 'shop') =>
    podsOf([slice(conditions)], namespace, services, new Set(before));
  expect(found({ ready: true })).toEqual([
    { name: 'p', pool: 'arm', http: '[fd00::7]:9000', grpc: '[fd00::7]:8001', metrics: '[fd00::7]:8002' },
  ]);
  expect(found({ ready: false })).toEqual([]);
  expect(found({ ready: false }, ['p'])).toHaveLength(1);
  expect(found({ ready: false, terminating: true }, ['p'])).toEqual([]);
  expect(found({ ready: true }, [], 'other')).toEqual([]);
});

test("a task's Service has an EndpointSlice for each kind of address and ports, and none of host names", () => {
  const made = servicesOf(fleet, {
    all: [],
    tasks: [
      {
        task: 'mnist',
        servers: [
          { name: 'a', http: '10.0.0.1:8000', grpc: '10.0.0.1:8001', weight: 100 },
          { name: 'b', http: '10.0.0.2:8000', grpc: '10.0.0.2:8001', weight: 25 },
          { name: 'c', http: '10.0.0.3:9000', weight: 50 },
          { name: 'd', http: '[fd00::1]:8000', grpc: '[fd00::1]:8001', weight: 50 },
          { name: 'e', http: 'box.example:8000', weight: 50 },
        ],
      },
    ],
  }).map(({ object }) => object);
  expect(made.map(({ kind, metadata }) => `${kind} ${metadata.name}`)).toEqual([
    'Service edge-mnist-task',
    'EndpointSlice edge-mnist-task-ipv4-8000-8001',
    'EndpointSlice edge-mnist-task-ipv4-9000',
    'EndpointSlice edge-mnist-task-ipv6-8000-8001',
  ]);
  const addresses = ({ endpoints }: KubernetesObject) =>
    (endpoints as { addresses: string[] }[]).flatMap((endpoint) => endpoint.addresses);
  expect(made.slice(1).map(addresses)).toEqual([['10.0.0.1', '10.0.0.2'], ['10.0.0.3'], ['fd00::1']]);
});

test('every task has a Service of its own, whatever its name', () => {
  const names = ['mnist', 'MNIST', 'mnist_2', 'mnist.2', '9', 'x'.repeat(128), 'y'.repeat(128)];
  const services = names.map((name) => taskServiceName('edge', name));
  expect(new Set(services).size).toBe(names.length);
  for (const service of services) expect(service).toMatch(/^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$/);
  expect(services[0]).toBe('edge-mnist-task');
});
