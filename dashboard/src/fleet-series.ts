import type { FleetFrame } from '../../src/serve/control/messages.ts';

/** Points of a line; more than so many are narrower than a pixel. */
const MAX_POINTS = 400;

/** Servers that have an area of their own; the others share one. */
export const STACKED_SERVERS = 64;

/** Without a frame for so many usual spans there is a gap. */
const GAP_SPANS = 3.5;

type Values = (number | null)[];

export interface FleetTaskSeries {
  /** Seconds since the epoch. */
  readonly x: number[];
  readonly demandRps: Values;
  readonly plannedRps: Values;
  readonly unservedRps: Values;
  readonly servedPercent: Values;
  readonly plannedPercent: Values;
  readonly hosts: Values;
  readonly replicas: Values;
  /** Demand by server: those with the most in this time, in the order of the fleet; then all others together. */
  readonly stack: readonly { readonly server: string | undefined; readonly values: Values }[];
  /** By server, in the order of the fleet: the version that served. */
  readonly bands: readonly { readonly server: string; readonly versions: Values }[];
}

/** What the charts of a task show of a stretch of time. @param order names of the servers as the fleet has them */
export function fleetTaskSeriesOf(
  frames: readonly FleetFrame[],
  task: string,
  order: readonly string[],
  fromMs: number,
  toMs: number,
): FleetTaskSeries {
  const usualMs = frames.at(-1)?.spanMs || 1_000;
  const shown = frames.filter(({ atMs }) => atMs >= fromMs - 2 * usualMs && atMs <= toMs + 2 * usualMs);
  const stride = Math.max(1, Math.ceil(shown.length / MAX_POINTS));
  const series = {
    x: [] as number[],
    demandRps: [] as Values,
    plannedRps: [] as Values,
    unservedRps: [] as Values,
    servedPercent: [] as Values,
    plannedPercent: [] as Values,
    hosts: [] as Values,
    replicas: [] as Values,
  };
  const byServer = new Map<string, { demand: Values; versions: Values; total: number }>();
  for (const name of order) byServer.set(name, { demand: [], versions: [], total: 0 });
  let lastMs: number | undefined;
  for (let start = 0; start < shown.length; start += stride) {
    const part = shown.slice(start, start + stride);
    const last = part.at(-1)!;
    if (lastMs !== undefined && part[0]!.atMs - lastMs > GAP_SPANS * Math.max(1_000, usualMs))
      point((lastMs + 1) / 1000, []);
    point(last.atMs / 1000, part);
    lastMs = last.atMs;
  }
  const present = [...byServer].filter(([, { versions }]) => versions.some((version) => version !== null));
  const largest = new Set(
    present
      .toSorted(([, a], [, b]) => b.total - a.total)
      .slice(0, STACKED_SERVERS)
      .map(([name]) => name),
  );
  const others = present.filter(([name]) => !largest.has(name)).map(([, { demand }]) => demand);
  return {
    ...series,
    stack: [
      ...present
        .filter(([name]) => largest.has(name))
        .map(([server, { demand }]) => ({ server, values: demand })),
      ...(others.length > 0 ? [{ server: undefined, values: summed(others, series.x.length) }] : []),
    ],
    bands: present.map(([server, { versions }]) => ({ server, versions })),
  };

  /** One point of all lines; of no frames a gap. */
  function point(x: number, part: readonly FleetFrame[]): void {
    const index = series.x.length;
    series.x.push(x);
    const own = part.flatMap(({ tasks }) => (Object.hasOwn(tasks, task) ? [tasks[task]!] : []));
    const last = own.at(-1);
    const mean = (value: (frame: (typeof own)[number]) => number | undefined): number | null => {
      const values = own.map(value).filter((each) => each !== undefined);
      return values.length === 0 ? null : values.reduce((a, b) => a + b, 0) / values.length;
    };
    for (const { demand, versions } of byServer.values()) {
      demand.push(last === undefined ? null : 0);
      versions.push(null);
    }
    let total = 0;
    for (const frame of own) {
      for (const [name, [version, demandRps]] of Object.entries(frame.servers)) {
        // One that has left the fleet since has its place after the others.
        let server = byServer.get(name);
        if (server === undefined) {
          server = { demand: Array(index + 1).fill(0), versions: Array(index + 1).fill(null), total: 0 };
          byServer.set(name, server);
        }
        server.demand[index]! += demandRps / own.length;
        server.versions[index] = version;
        server.total += demandRps;
        total += demandRps;
      }
    }
    series.demandRps.push(last === undefined ? null : total / own.length);
    series.plannedRps.push(mean(({ plannedRps }) => plannedRps));
    series.unservedRps.push(mean(({ unservedRps }) => unservedRps));
    series.servedPercent.push(percentOf(mean(({ servedAccuracy }) => servedAccuracy)));
    series.plannedPercent.push(percentOf(mean(({ plannedAccuracy }) => plannedAccuracy)));
    series.hosts.push(last?.hosts ?? null);
    series.replicas.push(last?.replicas ?? null);
  }
}

function percentOf(value: number | null): number | null {
  return value === null ? null : 100 * value;
}

function summed(lists: readonly Values[], length: number): Values {
  return Array.from({ length }, (_, i) => {
    const values = lists.flatMap((list) => list[i] ?? []);
    return values.length === 0 ? null : values.reduce((a, b) => a + b, 0);
  });
}
