import { bestFractions, type FractionPlan, fractionDispatch } from './fractions.ts';
import type { Decision, Policy, PolicyState, ResidencyAction } from './policy.ts';
import type { DropRule } from './serving-dispatch.ts';

/** A policy that splits traffic by a linear program for a demand that it forecasts, again and again. */
export interface SplitPlanner {
  readonly name: string;
  /** A plan is made every so many ticks of `periodMs`. */
  readonly periodMs: number;
  readonly planTicks: number;
  /** The first plan comes at this tick, so that it does not start blind. */
  readonly firstTick: number;
  /** Utilization that a plan fills. */
  readonly utilization: number;
  readonly drop: DropRule;
  /** The target whose profiles count; by default a variant's most recent one. */
  readonly fingerprint?: string;
  /** Called every tick, with what it returned before. */
  forecast(state: PolicyState, memory: unknown): Forecast;
}

export interface Forecast {
  /** By task. */
  readonly demandRps: readonly number[];
  readonly memory: unknown;
}

interface Memory {
  readonly tick: number;
  readonly forecast: unknown;
  /** Decided, but not all of its versions are resident yet. */
  readonly pending?: FractionPlan;
}

/**
 * Make before break, as InfAdapter does it: what a new plan needs and is not resident is loaded, then the shares move
 * over, then what it does not need is let go.
 */
export function splitPolicy(planner: SplitPlanner): Policy {
  return {
    name: planner.name,
    metric: 'inverseThroughput',
    periodMs: planner.periodMs,
    decide: (state) => decide(state, planner),
    dispatch: fractionDispatch({ drop: planner.drop }),
  };
}

function decide(state: PolicyState, planner: SplitPlanner): Decision {
  const before = state.memory as Memory | undefined;
  const tick = (before?.tick ?? 0) + 1;
  const forecast = planner.forecast(state, before?.forecast);
  const isDue = tick === planner.firstTick || tick % planner.planTicks === 0;
  const planned = isDue
    ? withinResidency(
        state,
        bestFractions(state, forecast.demandRps, planner.utilization, planner.fingerprint),
      )
    : before?.pending;
  const memory: Memory = { tick, forecast: forecast.memory };
  if (planned === undefined)
    return { actions: [], memory, reason: 'The present split stays until the next plan.' };
  const missing = missingVersions(state, planned);
  const told = Object.entries(planned.fractions)
    .map(
      ([task, list]) =>
        `${task} ${list.map(({ version, fraction }) => `${version}: ${(100 * fraction).toFixed(0)} %`).join(', ')}`,
    )
    .join('; ');
  if (missing.length > 0) {
    return {
      actions: [],
      residency: [...missing, ...makingRoom(state, planned)],
      memory: { ...memory, pending: planned },
      reason: `The next split waits for versions to load: ${told}.`,
    };
  }
  return {
    actions: [],
    residency: surplusVersions(state, planned),
    plan: planned,
    memory,
    reason: `For ${forecast.demandRps.map((rps) => rps.toFixed(1)).join(', ')} req/s: ${told}.`,
  };
}

function missingVersions({ tasks }: PolicyState, { fractions }: FractionPlan): ResidencyAction[] {
  return tasks.flatMap(({ task, resident = [] }) =>
    (fractions[task] ?? [])
      .filter(({ version }) => !resident.includes(version))
      .map(({ version }) => ({ kind: 'load' as const, task, version })),
  );
}

/** Versions of before that a plan does not need; all stay where the whole family may. */
function surplusVersions({ tasks }: PolicyState, { fractions }: FractionPlan): ResidencyAction[] {
  return tasks.flatMap(({ task, resident = [], residencyLimit = 1, frontier }) => {
    const needed = fractions[task];
    if (needed === undefined || residencyLimit >= frontier.length) return [];
    return resident
      .filter((version) => !needed.some((fraction) => fraction.version === version))
      .map((version) => ({ kind: 'unload' as const, task, version }));
  });
}

/** Where the old and the new versions of a task cannot be resident together, the old ones make room. */
function makingRoom(state: PolicyState, plan: FractionPlan): ResidencyAction[] {
  const missing = missingVersions(state, plan);
  return surplusVersions(state, plan).filter(({ task: name }) => {
    const {
      resident = [],
      loading = [],
      residencyLimit = 1,
    } = state.tasks.find(({ task }) => task === name)!;
    const wanted = missing.filter(({ task }) => task === name).length;
    // One more than the limit may be there while it replaces another.
    return resident.length + loading.length + wanted > residencyLimit + 1;
  });
}

/** Where one version is all that a task may have, the smaller one of a split takes every request. */
function withinResidency({ tasks }: PolicyState, { fractions }: FractionPlan): FractionPlan {
  const fitted = Object.entries(fractions).map(([name, list]) => {
    const limit = tasks.find(({ task }) => task === name)?.residencyLimit ?? 1;
    return [name, list.length > limit ? [{ version: list.at(-1)!.version, fraction: 1 }] : list];
  });
  return { fractions: Object.fromEntries(fitted) };
}
