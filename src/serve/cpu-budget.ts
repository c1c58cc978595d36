import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';

/** Reads a file; undefined where it is not there. */
type Reader = (path: string) => string | undefined;

/**
 * CPUs that this process may use, possibly a fraction: its affinity, bounded by the quotas of its control group and of
 * those above it (cgroup v2 `cpu.max`, v1 `cpu.cfs_quota_us` over `cpu.cfs_period_us`; Linux kernel documentation,
 * admin-guide/cgroup-v2 and scheduler/sched-bwc). A container sees its own group as the root, so that is looked at too.
 */
export function availableCores(read: Reader = readIfThere, affinity = availableParallelism()): number {
  return Math.min(affinity, ...quotas(read));
}

/** Slots of a budget: jobs of so many threads each that can run at a time; at least one. */
export function slotsOf(budgetCores: number, threads: number): number {
  return Math.max(1, Math.floor(budgetCores / threads));
}

function* quotas(read: Reader): Iterable<number> {
  for (const line of (read('/proc/self/cgroup') ?? '').split('\n')) {
    const [, controllers, path] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    if (controllers === undefined || path === undefined) continue;
    if (controllers === '') {
      for (const folder of upwards('/sys/fs/cgroup', path)) yield quotaV2(read(join(folder, 'cpu.max')));
    } else if (controllers.split(',').includes('cpu')) {
      for (const root of ['/sys/fs/cgroup/cpu', `/sys/fs/cgroup/${controllers}`])
        for (const folder of upwards(root, path)) {
          yield quotaV1(read(join(folder, 'cpu.cfs_quota_us')), read(join(folder, 'cpu.cfs_period_us')));
        }
    }
  }
}

function* upwards(root: string, path: string): Iterable<string> {
  for (let at = path; at !== '/' && at !== '.'; at = dirname(at)) yield join(root, at);
  yield root;
}

/** `50000 100000` → 0.5; `max 100000` → no bound. */
function quotaV2(text: string | undefined): number {
  const [, quota, period] = /^(\d+) (\d+)/.exec(text ?? '') ?? [];
  return quota === undefined ? Number.POSITIVE_INFINITY : Number(quota) / Number(period);
}

/** −1: no bound. */
function quotaV1(quota: string | undefined, period: string | undefined): number {
  const bound = Number(quota ?? -1) / Number(period ?? Number.NaN);
  return bound > 0 ? bound : Number.POSITIVE_INFINITY;
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
