import { type KubernetesObject, labels } from './resources.ts';

/** A pod that serves, as the cluster's EndpointSlices tell. */
export interface Pod {
  readonly name: string;
  readonly pool: string;
  /** HOST:PORT of each. */
  readonly http: string;
  readonly grpc: string;
  readonly metrics: string;
}

/** What is kept of an EndpointSlice. Source: discovery.k8s.io/v1. */
export interface KnownSlice {
  readonly namespace: string;
  readonly service: string;
  readonly ports: Readonly<Record<string, number>>;
  readonly endpoints: readonly {
    readonly address: string;
    readonly pod: string;
    readonly isReady: boolean;
    readonly isTerminating: boolean;
  }[];
}

/** Ports that every server of ours has, by their names in its Service. */
export const PORTS = { http: 8000, grpc: 8001, metrics: 8002 } as const;

/** @returns undefined for a slice that is of no use here: of no Service, of host names, or of our own making */
export function knownSlice(slice: KubernetesObject): KnownSlice | undefined {
  const { namespace = '', labels: own = {} } = slice.metadata;
  const service = own['kubernetes.io/service-name'];
  if (service === undefined || slice.addressType === 'FQDN' || own[labels.task] !== undefined)
    return undefined;
  // As the API says; what is missing has the API's defaults.
  const { endpoints, ports } = slice as unknown as {
    readonly endpoints?: readonly {
      readonly addresses?: readonly string[];
      readonly conditions?: { readonly ready?: boolean; readonly terminating?: boolean };
      readonly targetRef?: { readonly kind?: string; readonly name?: string };
    }[];
    readonly ports?: readonly { readonly name?: string; readonly port?: number }[];
  };
  return {
    namespace,
    service,
    ports: Object.fromEntries((ports ?? []).map(({ name = '', port = 0 }) => [name, port])),
    endpoints: (endpoints ?? []).flatMap(({ addresses, conditions, targetRef }) =>
      addresses?.[0] === undefined || targetRef?.kind !== 'Pod' || targetRef.name === undefined
        ? []
        : [
            {
              address: addresses[0],
              pod: targetRef.name,
              isReady: conditions?.ready ?? true,
              isTerminating: conditions?.terminating ?? false,
            },
          ],
    ),
  };
}

/**
 * The pods behind these Services. One joins when it is ready, and stays until it ends: whether it answers in between, the fleet's
 * loop sees sooner than its probes.
 * @param services the pool of each Service
 * @param before names of those that were found last
 */
export function podsOf(
  slices: Iterable<KnownSlice>,
  namespace: string,
  services: ReadonlyMap<string, string>,
  before: ReadonlySet<string>,
): Pod[] {
  const pods = new Map<string, Pod>();
  for (const slice of slices) {
    const pool = slice.namespace === namespace ? services.get(slice.service) : undefined;
    if (pool === undefined) continue;
    const at = (address: string, port: keyof typeof PORTS) =>
      `${address.includes(':') ? `[${address}]` : address}:${slice.ports[port] ?? PORTS[port]}`;
    for (const { address, pod, isReady, isTerminating } of slice.endpoints) {
      if (isTerminating || !(isReady || before.has(pod)) || pods.has(pod)) continue;
      pods.set(pod, {
        name: pod,
        pool,
        http: at(address, 'http'),
        grpc: at(address, 'grpc'),
        metrics: at(address, 'metrics'),
      });
    }
  }
  return [...pods.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}
