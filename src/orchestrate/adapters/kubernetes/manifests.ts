import type { FleetSpec, PoolSpec } from './fleet-spec.ts';
import { PORTS } from './pods.ts';
import {
  apiVersionOf,
  DEPLOYMENTS,
  DISRUPTION_BUDGETS,
  INFERENCE_SERVICES,
  type KubernetesObject,
  labels,
  MANAGER,
  ownerOf,
  type Resource,
  SERVICES,
  SERVING_RUNTIMES,
} from './resources.ts';

export const manifestDefaults = {
  /** Of a server without networks: Node.js, ONNX Runtime, requests under way. */
  serverMemoryBytes: 512 * 1024 * 1024,
  /** A new server starts empty: in this time the loop loads what it is to serve, before an old one ends. */
  minReadySeconds: 15,
  /** From the end of a pod to that of its server: in this time routes lead elsewhere. */
  leaveSeconds: 5,
  /** Longer than that, and than a server drains on SIGTERM. */
  terminationSeconds: 60,
  /** The account that an image of Node.js brings. */
  userId: 1000,
} as const;

/** Where a server has what is mounted. */
const MODELS_FOLDER = '/models';
const TOKEN_FOLDER = '/etc/bonsai';
const TLS_FOLDER = '/etc/bonsai-tls';

const CONTAINER = 'bonsai';
/** As KServe calls the container that it looks for. */
const KSERVE_CONTAINER = 'kserve-container';
const MODEL_FORMAT = 'bonsai';

/** An object to be applied, with the resource that it is of. */
export interface Wanted {
  readonly resource: Resource;
  readonly object: KubernetesObject;
}

/** Name of what is made for a pool. */
export function poolName(fleet: KubernetesObject, pool: Pick<PoolSpec, 'name'>): string {
  return `${fleet.metadata.name}-${pool.name}`;
}

/** The Services whose endpoints are a fleet's servers, with their pools. */
export function serverServices(fleet: KubernetesObject, { runtime, pools }: FleetSpec): Map<string, string> {
  return new Map(
    pools.map((pool) => [
      runtime === 'kserve' ? `${poolName(fleet, pool)}-predictor` : poolName(fleet, pool),
      pool.name,
    ]),
  );
}

/** All that a fleet's pools need. Pure: the same fleet gives the same objects. */
export function manifestsOf(fleet: KubernetesObject, spec: FleetSpec): Wanted[] {
  return spec.pools.flatMap((pool) =>
    spec.runtime === 'kserve'
      ? [servingRuntime(fleet, spec, pool), inferenceService(fleet, pool)]
      : [deployment(fleet, spec, pool), service(fleet, pool), disruptionBudget(fleet, pool)],
  );
}

function deployment(fleet: KubernetesObject, spec: FleetSpec, pool: PoolSpec): Wanted {
  return wanted(fleet, DEPLOYMENTS, pool, {
    // Left out, it belongs to whoever scales.
    ...(pool.replicas !== undefined && { replicas: pool.replicas }),
    selector: { matchLabels: selectorOf(fleet, pool) },
    minReadySeconds: manifestDefaults.minReadySeconds,
    // One more before one less: capacity stays.
    strategy: { type: 'RollingUpdate', rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } },
    template: {
      metadata: { labels: labelsOf(fleet, pool) },
      spec: {
        ...podSettings(spec, pool),
        automountServiceAccountToken: false,
        terminationGracePeriodSeconds: manifestDefaults.terminationSeconds,
        // Servers on different machines, where there are enough.
        topologySpreadConstraints: [
          {
            maxSkew: 1,
            topologyKey: 'kubernetes.io/hostname',
            whenUnsatisfiable: 'ScheduleAnyway',
            labelSelector: { matchLabels: selectorOf(fleet, pool) },
          },
        ],
        securityContext: {
          runAsNonRoot: true,
          runAsUser: manifestDefaults.userId,
          runAsGroup: manifestDefaults.userId,
          fsGroup: manifestDefaults.userId,
          seccompProfile: { type: 'RuntimeDefault' },
        },
        containers: [container(CONTAINER, spec, pool)],
      },
    },
  });
}

/** Headless: it is asked for addresses, requests go by the tasks' Services. */
function service(fleet: KubernetesObject, pool: PoolSpec): Wanted {
  return wanted(fleet, SERVICES, pool, {
    clusterIP: 'None',
    selector: selectorOf(fleet, pool),
    ports: Object.entries(PORTS).map(([name, port]) => ({ name, port, protocol: 'TCP', targetPort: name })),
  });
}

/** Nodes are drained one server at a time. */
function disruptionBudget(fleet: KubernetesObject, pool: PoolSpec): Wanted {
  return wanted(fleet, DISRUPTION_BUDGETS, pool, {
    maxUnavailable: 1,
    selector: { matchLabels: selectorOf(fleet, pool) },
  });
}

/** Source: serving.kserve.io/v1alpha1. */
function servingRuntime(fleet: KubernetesObject, spec: FleetSpec, pool: PoolSpec): Wanted {
  return wanted(fleet, SERVING_RUNTIMES, pool, {
    supportedModelFormats: [{ name: MODEL_FORMAT, version: '1', autoSelect: false }],
    protocolVersions: ['v2', 'grpc-v2'],
    multiModel: false,
    ...podSettings(spec, pool),
    containers: [container(KSERVE_CONTAINER, spec, pool)],
  });
}

/** Source: serving.kserve.io/v1beta1. Raw deployments: the number of servers is the fleet's business, not that of requests. */
function inferenceService(fleet: KubernetesObject, pool: PoolSpec): Wanted {
  const { replicas } = pool;
  const made = wanted(fleet, INFERENCE_SERVICES, pool, {
    predictor: {
      ...(replicas !== undefined && { minReplicas: replicas, maxReplicas: Math.max(1, replicas) }),
      model: {
        modelFormat: { name: MODEL_FORMAT },
        runtime: poolName(fleet, pool),
        protocolVersion: 'v2',
        resources: resourcesOf(pool),
      },
    },
  });
  const annotations = { 'serving.kserve.io/deploymentMode': 'RawDeployment' };
  return { ...made, object: { ...made.object, metadata: { ...made.object.metadata, annotations } } };
}

/** What a pod of a Deployment and of a ServingRuntime say alike. */
function podSettings(spec: FleetSpec, pool: PoolSpec): object {
  return {
    ...(pool.nodeSelector !== undefined && { nodeSelector: pool.nodeSelector }),
    ...(pool.tolerations !== undefined && { tolerations: pool.tolerations }),
    volumes: [
      { name: 'models', ...spec.volume },
      { name: 'token', secret: { secretName: spec.tokenSecret, defaultMode: 0o440 } },
      // Optimised networks and the ring of tensors; gone with the pod.
      { name: 'tmp', emptyDir: {} },
      ...(spec.tlsSecret === undefined
        ? []
        : [{ name: 'tls', secret: { secretName: spec.tlsSecret, defaultMode: 0o440 } }]),
    ],
  };
}

function container(name: string, spec: FleetSpec, pool: PoolSpec): object {
  const probe = (path: string, more: object) => ({
    httpGet: { path, port: 'http', ...(spec.tlsSecret !== undefined && { scheme: 'HTTPS' }) },
    timeoutSeconds: 2,
    ...more,
  });
  return {
    name,
    image: spec.image,
    args: [
      'serve',
      spec.repository === '' ? MODELS_FOLDER : `${MODELS_FOLDER}/${spec.repository}`,
      ...['--host', '0.0.0.0', '--port', String(PORTS.http), '--grpc-port', String(PORTS.grpc)],
      ...['--metrics-port', String(PORTS.metrics), '--control-port', 'off'],
      // What is loaded, the fleet's loop decides.
      ...['--model-control-mode', 'explicit', '--admin-token-file', `${TOKEN_FOLDER}/token`],
      ...(spec.tlsSecret === undefined
        ? []
        : ['--tls-cert', `${TLS_FOLDER}/tls.crt`, '--tls-key', `${TLS_FOLDER}/tls.key`]),
      ...['--slots', String(Math.max(1, Math.round(pool.cpus)))],
    ],
    ports: Object.entries(PORTS).map(([port, containerPort]) => ({
      name: port,
      containerPort,
      protocol: 'TCP',
    })),
    resources: resourcesOf(pool),
    lifecycle: { preStop: { sleep: { seconds: manifestDefaults.leaveSeconds } } },
    // Threads that wait for a CPU may answer late: only one that is stuck for a minute is started anew.
    livenessProbe: probe('/v2/health/live', { periodSeconds: 10, failureThreshold: 6 }),
    readinessProbe: probe('/v2/health/ready', { periodSeconds: 5, failureThreshold: 2 }),
    startupProbe: probe('/v2/health/live', { periodSeconds: 1, failureThreshold: 120 }),
    securityContext: {
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
    },
    volumeMounts: [
      { name: 'models', mountPath: MODELS_FOLDER, readOnly: true },
      { name: 'token', mountPath: TOKEN_FOLDER, readOnly: true },
      { name: 'tmp', mountPath: '/tmp' },
      ...(spec.tlsSecret === undefined ? [] : [{ name: 'tls', mountPath: TLS_FOLDER, readOnly: true }]),
    ],
  };
}

/** All of it is reserved: plans count on the CPU, and memory does not come back once networks have it. */
function resourcesOf({ cpus, memoryBytes }: PoolSpec): object {
  const amount = {
    cpu: `${Math.round(1000 * cpus)}m`,
    memory: String(memoryBytes + manifestDefaults.serverMemoryBytes),
  };
  return { requests: amount, limits: amount };
}

function wanted(fleet: KubernetesObject, resource: Resource, pool: PoolSpec, spec: object): Wanted {
  return {
    resource,
    object: {
      apiVersion: apiVersionOf(resource),
      kind: resource.kind,
      metadata: {
        name: poolName(fleet, pool),
        namespace: fleet.metadata.namespace,
        labels: labelsOf(fleet, pool),
        ownerReferences: [ownerOf(fleet)],
      },
      spec,
    },
  };
}

function selectorOf(fleet: KubernetesObject, pool: PoolSpec): Record<string, string> {
  return { [labels.fleet]: fleet.metadata.name, [labels.pool]: pool.name };
}

function labelsOf(fleet: KubernetesObject, pool: PoolSpec): Record<string, string> {
  return {
    [labels.name]: 'bonsai',
    [labels.component]: 'server',
    [labels.managedBy]: MANAGER,
    ...selectorOf(fleet, pool),
  };
}
