import { peakDemandRps } from './observed.ts';
import type { Policy, PolicyState } from './policy.ts';
import { type Forecast, splitPolicy } from './split-planner.ts';

/** From the source (reconfigurable-ml-pipeline/InfAdapter, auto_tuner) where not said otherwise. */
export const infadapterDefaults = {
  periodMs: 1_000,
  /** Adaptation every 30 s. */
  planTicks: 30,
  /** Per-minute maxima of the last 10 minutes are looked at. */
  minutes: 10,
  /** Provision for so much more than the forecast. */
  headroom: 1.1,
  /** Weight of the newest maximum in the exponentially weighted fall-back of the LSTM forecast. */
  smoothing: 0.5,
  /** Adaptations in a row that must ask for less before less is given. */
  stableRounds: 4,
  utilization: 1,
} as const;

export type InfadapterOptions = { readonly [K in keyof typeof infadapterDefaults]?: number } & {
  readonly fingerprint?: string;
};

/**
 * An analogue of InfAdapter for one server: every 30 s the split of highest accuracy for 1.1 × the forecast of the
 * next minute's peak, going down only after four rounds. The forecast is the source's fall-back (exponentially
 * weighted per-minute maxima), not its LSTM.
 * Source: Salmani et al., "Reconciling high accuracy, cost-efficiency, and low latency of inference serving
 * systems", EuroMLSys 2023.
 */
export function infadapterPolicy(options: InfadapterOptions = {}): Policy {
  const constants = { ...infadapterDefaults, ...options };
  return splitPolicy({
    name: 'infadapter',
    periodMs: constants.periodMs,
    planTicks: constants.planTicks,
    firstTick: 5,
    utilization: constants.utilization,
    drop: 'hopeless',
    fingerprint: options.fingerprint,
    forecast: (state, memory) => peakForecast(state, memory, constants),
  });
}

interface Memory {
  readonly tick: number;
  /** By task. */
  readonly provisionedRps: readonly number[];
  readonly lowRounds: readonly number[];
}

function peakForecast(
  state: PolicyState,
  memory: unknown,
  constants: { readonly [K in keyof typeof infadapterDefaults]: number },
): Forecast {
  const before = memory as Memory | undefined;
  const tick = (before?.tick ?? 0) + 1;
  if (before !== undefined && tick % constants.planTicks !== 0 && tick !== 5) {
    return { demandRps: before.provisionedRps, memory: { ...before, tick } };
  }
  const provisionedRps: number[] = [];
  const lowRounds: number[] = [];
  for (const [k, task] of state.tasks.entries()) {
    const asked = constants.headroom * smoothedPeak(state, k, constants);
    const given = before?.provisionedRps[k] ?? 0;
    const rounds = asked < given ? (before?.lowRounds[k] ?? 0) + 1 : 0;
    const keeps = rounds > 0 && rounds < constants.stableRounds;
    provisionedRps.push(task.demand.length === 0 || keeps ? given : asked);
    lowRounds.push(keeps ? rounds : 0);
  }
  const next: Memory = { tick, provisionedRps, lowRounds };
  return { demandRps: provisionedRps, memory: next };
}

/** Per-minute maxima, oldest first, folded by the smoothing. */
function smoothedPeak(
  { tasks, nowMs }: PolicyState,
  k: number,
  { minutes, smoothing }: { readonly minutes: number; readonly smoothing: number },
): number {
  const task = tasks[k]!;
  const seenMs = nowMs - (task.demand[0]?.atMs ?? nowMs);
  let forecast: number | undefined;
  for (let minute = Math.min(minutes - 1, Math.floor(seenMs / 60_000)); minute >= 0; minute--) {
    const peak = peakDemandRps(task, nowMs - minute * 60_000, 60_000);
    forecast = forecast === undefined ? peak : forecast + smoothing * (peak - forecast);
  }
  return forecast ?? 0;
}
