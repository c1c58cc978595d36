import type { Policy } from './policy.ts';
import { smoothedDemand } from './proteus.ts';
import { splitPolicy } from './split-planner.ts';

export const blindSplitDefaults = {
  periodMs: 1_000,
  smoothing: 0.3,
  headroom: 1,
  /** Sweep it to draw the policy's frontier of accuracy against violations. */
  utilization: 0.8,
} as const;

export type BlindSplitOptions = { readonly [K in keyof typeof blindSplitDefaults]?: number } & {
  readonly fingerprint?: string;
};

/**
 * Model-predictive control by shares alone: every second the split of highest accuracy for the present demand, blind
 * to the queue. It isolates what Proteus' linear program is worth with every version resident, a deadline queue and
 * a period of 1 s.
 */
export function blindSplitPolicy(options: BlindSplitOptions = {}): Policy {
  const { periodMs, smoothing, headroom, utilization } = { ...blindSplitDefaults, ...options };
  return splitPolicy({
    name: `blind-split:${utilization}`,
    periodMs,
    planTicks: 1,
    firstTick: 1,
    utilization,
    drop: 'hopeless',
    fingerprint: options.fingerprint,
    forecast: (state, memory) => smoothedDemand(state, memory, { smoothing, headroom }),
  });
}
