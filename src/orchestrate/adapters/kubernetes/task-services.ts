import { createHash } from 'node:crypto';
import { isIP, isIPv6 } from 'node:net';
import type { Balancer, RoutedServer, Routing } from '../../balancer.ts';
import type { KubernetesClient } from './client.ts';
import type { Wanted } from './manifests.ts';
import { PORTS } from './pods.ts';
import {
  apiVersionOf,
  ENDPOINT_SLICES,
  type KubernetesObject,
  keyOf,
  labels,
  MANAGER,
  ownerOf,
  SERVICES,
} from './resources.ts';

/** kube-proxy follows EndpointSlices within a second or two. */
export const PROXY_DELAY_MS = 2_000;

/** Who watches over an EndpointSlice that no selector makes. */
const SLICE_MANAGER = 'controller.bonsai.dev';

/**
 * Balances by the cluster itself: each task has a Service, whose endpoints are the servers that serve it. The cluster spreads
 * connections evenly; it knows no weights.
 */
export function taskServices(
  client: KubernetesClient,
  fleet: KubernetesObject,
): Balancer & { readonly kind: string } {
  const applied = new Map<string, { readonly wanted: Wanted; readonly text: string }>();
  const { namespace = '', name } = fleet.metadata;
  let isFirst = true;

  return {
    kind: 'Services',
    staleMs: PROXY_DELAY_MS,
    isRunning: async () => true,
    async apply(routing, signal) {
      const all = servicesOf(fleet, routing);
      const keys = new Set(all.map(keyOfWanted));
      for (const wanted of all) {
        const text = JSON.stringify(wanted.object);
        if (applied.get(keyOfWanted(wanted))?.text === text) continue;
        await client.apply(wanted.resource, wanted.object, { signal });
        applied.set(keyOfWanted(wanted), { wanted, text });
      }
      // What the controller before left behind is known by its labels.
      if (isFirst) {
        const labelSelector = `${labels.fleet}=${name},${labels.task}`;
        for (const resource of [SERVICES, ENDPOINT_SLICES])
          for (const object of (await client.list(resource, { namespace, labelSelector }, signal)).items) {
            const wanted = { resource, object };
            if (!keys.has(keyOfWanted(wanted))) applied.set(keyOfWanted(wanted), { wanted, text: '' });
          }
      }
      for (const [key, { wanted }] of applied) {
        if (keys.has(key)) continue;
        await client.delete(wanted.resource, namespace, wanted.object.metadata.name, signal);
        applied.delete(key);
      }
      isFirst = false;
    },
  };
}

function keyOfWanted({ resource, object }: Wanted): string {
  return `${resource.plural} ${keyOf(object.metadata)}`;
}

/** The name of a task's Service: FLEET-TASK where that can be a name, else with a digest in place of what cannot. */
export function taskServiceName(fleet: string, task: string): string {
  const plain = `${fleet}-${task}`;
  if (plain.length <= 50 && /^[a-z]([-a-z0-9]*[a-z0-9])?$/.test(plain)) return `${plain}-task`;
  const digest = createHash('sha256').update(task).digest('hex').slice(0, 8);
  const readable = plain
    .toLowerCase()
    .replace(/[^-a-z0-9]/g, '-')
    .slice(0, 45)
    .replace(/-+$/, '');
  return `${readable}-${digest}-task`;
}

/** The Services and EndpointSlices of a routing. Pure. */
export function servicesOf(fleet: KubernetesObject, { tasks }: Routing): Wanted[] {
  return tasks.flatMap(({ task, servers }) => {
    const name = taskServiceName(fleet.metadata.name, task);
    const own = { [labels.managedBy]: MANAGER, [labels.fleet]: fleet.metadata.name, [labels.task]: name };
    const meta = { namespace: fleet.metadata.namespace, ownerReferences: [ownerOf(fleet)] };
    const service: Wanted = {
      resource: SERVICES,
      object: {
        apiVersion: apiVersionOf(SERVICES),
        kind: SERVICES.kind,
        metadata: { ...meta, name, labels: own, annotations: { [labels.task]: task } },
        spec: {
          ports: (['http', 'grpc'] as const).map((port) => ({
            name: port,
            port: PORTS[port],
            protocol: 'TCP',
          })),
        },
      },
    };
    return [
      service,
      ...groupsOf(servers).map(([kind, group]): Wanted => {
        const ports = [
          { name: 'http', port: portOf(group[0]!.http), protocol: 'TCP' },
          ...(group[0]!.grpc === undefined
            ? []
            : [{ name: 'grpc', port: portOf(group[0]!.grpc), protocol: 'TCP' }]),
        ];
        return {
          resource: ENDPOINT_SLICES,
          object: {
            apiVersion: apiVersionOf(ENDPOINT_SLICES),
            kind: ENDPOINT_SLICES.kind,
            metadata: {
              ...meta,
              name: `${name}-${kind}`,
              labels: {
                ...own,
                'kubernetes.io/service-name': name,
                'endpointslice.kubernetes.io/managed-by': SLICE_MANAGER,
              },
            },
            addressType: kind.startsWith('ipv6') ? 'IPv6' : 'IPv4',
            ports,
            endpoints: group.map(({ http }) => ({
              addresses: [hostOf(http)],
              conditions: { ready: true, serving: true, terminating: false },
            })),
          },
        };
      }),
    ];
  });
}

/** Endpoints of one slice have one family of addresses and the same ports. Host names can be none, as nobody resolves them. */
function groupsOf(servers: readonly RoutedServer[]): [string, RoutedServer[]][] {
  const groups = new Map<string, RoutedServer[]>();
  for (const server of servers) {
    const host = hostOf(server.http);
    if (isIP(host) === 0) continue;
    const ports = [server.http, server.grpc].flatMap((own) => (own === undefined ? [] : [portOf(own)]));
    const kind = `${isIPv6(host) ? 'ipv6' : 'ipv4'}-${ports.join('-')}`;
    groups.set(kind, [...(groups.get(kind) ?? []), server]);
  }
  return [...groups].sort(([a], [b]) => (a < b ? -1 : 1));
}

function hostOf(address: string): string {
  return address.slice(0, address.lastIndexOf(':')).replace(/^\[|\]$/g, '');
}

function portOf(address: string): number {
  return Number(address.slice(address.lastIndexOf(':') + 1));
}
