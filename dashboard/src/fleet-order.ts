import type { ServerRecord } from '../../src/orchestrate/fleet/record.ts';

export type Order = 'trouble' | 'name' | 'cpu' | 'demand';

export const ORDERS: Readonly<Record<Order, string>> = {
  trouble: 'trouble first',
  name: 'name',
  cpu: 'CPU',
  demand: 'demand',
};

export const HEALTHS = ['all', 'trouble', 'up', 'down', 'drained', 'changing'] as const;

export interface ServerFilter {
  /** Part of a name. */
  readonly name: string;
  /** Served or planned there; empty: any. */
  readonly task: string;
  readonly health: (typeof HEALTHS)[number];
}

export const NO_FILTER: ServerFilter = { name: '', task: '', health: 'all' };

/** How much a server wants somebody's attention; higher is more. */
export function troubleOf({ health, trouble, isDrained, change }: ServerRecord): number {
  if (health === 'down') return 4;
  if (trouble !== undefined) return 3;
  if (health === 'unknown' || isDrained) return 2;
  return change === undefined ? 0 : 1;
}

/** Those that pass the filter, in order; of equals by name, numbers in it as numbers. */
export function shownServers(
  servers: readonly ServerRecord[],
  filter: ServerFilter,
  order: Order,
): ServerRecord[] {
  const wanted = filter.name.trim().toLowerCase();
  const passes = (server: ServerRecord) =>
    server.name.toLowerCase().includes(wanted) &&
    (filter.task === '' || server.tasks.some(({ task }) => task === filter.task)) &&
    isOf(server, filter.health);
  const rank = {
    trouble: troubleOf,
    name: () => 0,
    cpu: ({ utilization }: ServerRecord) => utilization ?? -1,
    demand: demandOfServer,
  }[order];
  return servers
    .filter(passes)
    .map((server) => ({ server, rank: rank(server) }))
    .sort((a, b) => b.rank - a.rank || byName.compare(a.server.name, b.server.name))
    .map(({ server }) => server);
}

function isOf(server: ServerRecord, health: ServerFilter['health']): boolean {
  switch (health) {
    case 'all':
      return true;
    case 'trouble':
      return troubleOf(server) >= 3;
    case 'drained':
      return server.isDrained === true;
    case 'changing':
      return server.change !== undefined;
    default:
      return server.health === health;
  }
}

export function demandOfServer({ tasks }: ServerRecord): number {
  return tasks.reduce((sum, { demandRps }) => sum + demandRps, 0);
}

const byName = new Intl.Collator('en', { numeric: true });
