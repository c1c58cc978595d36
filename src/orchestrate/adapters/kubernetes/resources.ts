/** A kind of object of the Kubernetes API, as its addresses name it. */
export interface Resource {
  /** '' for the core group. */
  readonly group: string;
  readonly version: string;
  readonly plural: string;
  readonly kind: string;
}

/** As much of `metadata` as is used. Source: Kubernetes API conventions, "Metadata". */
export interface ObjectMeta {
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
  readonly ownerReferences?: readonly OwnerReference[];
}

export interface OwnerReference {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
  readonly uid: string;
  readonly controller?: boolean;
  readonly blockOwnerDeletion?: boolean;
}

export interface KubernetesObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: ObjectMeta;
  readonly spec?: unknown;
  readonly status?: unknown;
  readonly [field: string]: unknown;
}

/** Source: Kubernetes API conventions, "Typical status properties". */
export interface Condition {
  readonly type: string;
  readonly status: 'True' | 'False' | 'Unknown';
  readonly observedGeneration: number;
  readonly lastTransitionTime: string;
  /** One word in CamelCase. */
  readonly reason: string;
  readonly message: string;
}

/** The group of Bonsai's own resources, also the prefix of its labels. */
export const BONSAI_GROUP = 'bonsai.dev';

export const FLEETS: Resource = resource(BONSAI_GROUP, 'v1alpha1', 'fleets', 'Fleet');
export const TASKS: Resource = resource(BONSAI_GROUP, 'v1alpha1', 'tasks', 'Task');
export const CONFIG_MAPS: Resource = resource('', 'v1', 'configmaps', 'ConfigMap');
export const SERVICES: Resource = resource('', 'v1', 'services', 'Service');
export const DEPLOYMENTS: Resource = resource('apps', 'v1', 'deployments', 'Deployment');
export const DISRUPTION_BUDGETS: Resource = resource(
  'policy',
  'v1',
  'poddisruptionbudgets',
  'PodDisruptionBudget',
);
export const ENDPOINT_SLICES: Resource = resource(
  'discovery.k8s.io',
  'v1',
  'endpointslices',
  'EndpointSlice',
);
export const LEASES: Resource = resource('coordination.k8s.io', 'v1', 'leases', 'Lease');
export const EVENTS: Resource = resource('events.k8s.io', 'v1', 'events', 'Event');
export const SERVING_RUNTIMES: Resource = resource(
  'serving.kserve.io',
  'v1alpha1',
  'servingruntimes',
  'ServingRuntime',
);
export const INFERENCE_SERVICES: Resource = resource(
  'serving.kserve.io',
  'v1beta1',
  'inferenceservices',
  'InferenceService',
);

export const labels = {
  managedBy: 'app.kubernetes.io/managed-by',
  name: 'app.kubernetes.io/name',
  component: 'app.kubernetes.io/component',
  fleet: `${BONSAI_GROUP}/fleet`,
  pool: `${BONSAI_GROUP}/pool`,
  task: `${BONSAI_GROUP}/task`,
} as const;

/** Who makes what these labels stand on. */
export const MANAGER = 'bonsai';

function resource(group: string, version: string, plural: string, kind: string): Resource {
  return { group, version, plural, kind };
}

export function apiVersionOf({ group, version }: Resource): string {
  return group === '' ? version : `${group}/${version}`;
}

/**
 * The address of a collection, or of one object of it.
 * @param namespace undefined: of all namespaces
 */
export function pathOf(
  { group, version, plural }: Resource,
  namespace?: string,
  name?: string,
  subresource?: 'status',
): string {
  const within = namespace === undefined ? '' : `/namespaces/${encodeURIComponent(namespace)}`;
  const one = name === undefined ? '' : `/${encodeURIComponent(name)}`;
  const part = subresource === undefined ? '' : `/${subresource}`;
  return `${group === '' ? '/api' : `/apis/${group}`}/${version}${within}/${plural}${one}${part}`;
}

/** Tells objects apart within their kind. */
export function keyOf({ namespace = '', name }: Pick<ObjectMeta, 'namespace' | 'name'>): string {
  return `${namespace}/${name}`;
}

/** Who is owned goes when its owner goes. */
export function ownerOf({ apiVersion, kind, metadata }: KubernetesObject): OwnerReference {
  const { name, uid } = metadata;
  return { apiVersion, kind, name, uid: uid ?? '', controller: true, blockOwnerDeletion: true };
}
