import type { Policy, PolicyState } from './policy.ts';
import { type Forecast, splitPolicy } from './split-planner.ts';

/** From the source (UMass-LIDS/Proteus, run.py and configs) where not said otherwise. */
export const proteusDefaults = {
  /** Demand is sampled every second (ours). */
  periodMs: 1_000,
  /** The linear program is solved every 20 s. */
  planTicks: 20,
  /** Weight of the newest sample in the moving average. */
  smoothing: 0.3,
  /** Provision for so much more than the average. */
  headroom: 1.05,
  utilization: 1,
} as const;

export type ProteusOptions = { readonly [K in keyof typeof proteusDefaults]?: number } & {
  readonly fingerprint?: string;
};

/**
 * An analogue of Proteus for one server: every 20 s the split of highest accuracy for 1.05 × the moving average of
 * demand; requests that cannot meet their deadline are dropped early.
 * Source: Ahmad et al., "Proteus: a high-throughput inference-serving system with accuracy scaling", ASPLOS 2024.
 */
export function proteusPolicy(options: ProteusOptions = {}): Policy {
  const { periodMs, planTicks, smoothing, headroom, utilization } = { ...proteusDefaults, ...options };
  return splitPolicy({
    name: 'proteus',
    periodMs,
    planTicks,
    firstTick: 5,
    utilization,
    drop: 'hopeless',
    fingerprint: options.fingerprint,
    forecast: (state, memory) => smoothedDemand(state, memory, { smoothing, headroom }),
  });
}

/** An exponential moving average of each task's demand samples, times a headroom. */
export function smoothedDemand(
  { tasks }: PolicyState,
  memory: unknown,
  { smoothing, headroom }: { readonly smoothing: number; readonly headroom: number },
): Forecast {
  const before = (memory ?? {}) as Readonly<Record<string, number>>;
  const averages: Record<string, number> = {};
  for (const { task, demand } of tasks) {
    const latest = demand.at(-1)?.demandRps ?? 0;
    const previous = before[task] ?? latest;
    averages[task] = previous + smoothing * (latest - previous);
  }
  return { demandRps: tasks.map(({ task }) => headroom * averages[task]!), memory: averages };
}
