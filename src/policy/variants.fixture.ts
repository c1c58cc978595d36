import type { Variant } from '../repository/types.ts';
import type { PolicyState, TaskState } from './policy.ts';

/** A variant with made-up but consistent figures, for tests of policies and of the loop. */
export function makeVariant(figures: {
  version: number;
  accuracy: number;
  throughputRps: number;
  latencyMs?: number;
  macs?: number;
  cpus?: number;
}): Variant {
  const { version, accuracy, throughputRps, cpus = 1 } = figures;
  const measured = (value: number) => ({ count: 1, mean: value, median: value, min: value, max: value });
  return {
    version,
    digest: version.toString(16).padStart(64, '0'),
    sizeBytes: 1000,
    accuracy: { test: accuracy, testCount: 10_000 },
    macs: figures.macs ?? Math.round(1e9 / throughputRps),
    parameters: 1000,
    lineage: {},
    profiles: {
      test: {
        target: {
          fingerprint: 'test',
          cpuModel: 'test',
          architecture: 'x64',
          cpus,
          runtime: 'test',
          runtimeVersion: '1',
        },
        measuredAt: '2026-01-01T00:00:00Z',
        latencyMs: measured(figures.latencyMs ?? 1000 / throughputRps),
        throughputRps: measured(throughputRps),
        concurrency: 1,
      },
    },
  };
}

/** Versions 1, 2, … with the given [accuracy, throughput] pairs, most accurate first. */
export function makeFrontier(
  ...pairs: readonly (readonly [accuracy: number, throughputRps: number])[]
): Variant[] {
  return pairs.map(([accuracy, throughputRps], index) =>
    makeVariant({ version: index + 1, accuracy, throughputRps }),
  );
}

/** A task with steady demand over the seconds before `nowMs`. */
export function makeTask(
  figures: Partial<TaskState> & { frontier: readonly Variant[]; demandRps?: number; nowMs?: number },
): TaskState {
  const { demandRps = 0, nowMs = 100_000, ...rest } = figures;
  const demand = secondsBefore(nowMs).map((atMs) => ({ atMs, demandRps }));
  return { task: 'digits', weight: 1, sloMs: 400, servingVersion: 1, demand, ...rest };
}

/** A state at 100 s whose last 20 s had the given utilization. */
export function makeState(figures: Partial<PolicyState> & { utilization?: number }): PolicyState {
  const { utilization = 0.6, nowMs = 100_000, ...rest } = figures;
  const cpu = secondsBefore(nowMs).map((atMs) => ({ atMs, utilization }));
  return { nowMs, tasks: [], cpu, cpuBudget: 1, ...rest };
}

function secondsBefore(nowMs: number): number[] {
  return Array.from({ length: 20 }, (_, index) => nowMs - (19 - index) * 1000);
}
