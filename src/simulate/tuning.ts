import { seededRandom } from '../base/random.ts';
import type { Policy, PolicyState } from '../policy/policy.ts';
import { servingDispatch } from '../policy/serving-dispatch.ts';
import { staticPolicy } from '../policy/static.ts';
import { type TrivialConstants, trivialPolicy } from '../policy/trivial.ts';
import type { Scenario } from './scenario.ts';
import { simulate } from './simulate.ts';
import { summarizeSimulation } from './summary.ts';
import type { Workload } from './workload.ts';

/**
 * The best a fixed choice could have done: of "every task its i-th most accurate version", the largest that keeps the
 * limit on this workload; the smallest if none does.
 * @param limit of violations over offered requests, in [0, 1]
 */
export function bestStatic(scenario: Scenario, workload: Workload, limit: number): Policy {
  const longest = Math.max(...scenario.tasks.map(({ variants }) => variants.length));
  for (let index = 0; index < longest; index++) {
    const policy = named(staticAt(index), 'static:hindsight');
    if (violations(scenario, workload, policy) <= limit) return policy;
  }
  return named(staticPolicy('smallest'), 'static:hindsight');
}

/** Every task serves the version at this place of its frontier, or its smallest. */
function staticAt(index: number): Policy {
  return {
    name: `static:${index}`,
    decide(state: PolicyState) {
      const places = state.tasks.map(({ task, frontier }) => [
        task,
        frontier[Math.min(index, frontier.length - 1)]?.version ?? 0,
      ]);
      return staticPolicy(Object.fromEntries(places)).decide(state);
    },
  };
}

export const tuningDefaults = {
  /** Draws of constants. */
  draws: 160,
  seed: 1,
} as const;

/**
 * The trivial policy with the constants that served this workload best: of so many random draws, the one of highest
 * mean accuracy that keeps the limit; if none does, the one with the fewest violations. The strongest result that
 * thresholds on the CPU can give, and one that knows the workload.
 */
export function tunedTrivial(
  scenario: Scenario,
  workload: Workload,
  options: { readonly limit: number; readonly draws?: number; readonly seed?: number },
): Policy {
  const { draws, seed, limit } = { ...tuningDefaults, ...options };
  const random = seededRandom(seed);
  let best: { policy: Policy; score: number } | undefined;
  for (let draw = 0; draw < draws; draw++) {
    const policy = named(trivialPolicy(drawConstants(random.fork(String(draw)))), 'trivial:tuned');
    const run = simulate({ scenario, workload, policy });
    const { violationRatio, meanAccuracy } = summarizeSimulation(run);
    const score = violationRatio <= limit ? meanAccuracy : -violationRatio;
    if (best === undefined || score > best.score) best = { policy, score };
  }
  return best!.policy;
}

/** One draw, uniform within what is sensible. */
function drawConstants({ uniform }: { uniform(): number }): Partial<TrivialConstants> {
  const between = (low: number, high: number) => low + (high - low) * uniform();
  const stepDownUtilization = between(0.4, 0.95);
  return {
    stepDownUtilization,
    stepUpUtilization: between(0.25, 1) * stepDownUtilization,
    stepUpGoalUtilization: between(0.6, 1.1) * stepDownUtilization,
    stepUpMultiplierLimit: between(1.05, 2),
    minReductionRatio: between(0.05, 0.6),
    holdMs: between(2_000, 20_000),
    stepUpHoldMs: between(5_000, 60_000),
    windowMs: Math.round(between(2, 15)) * 1000,
  };
}

function violations(scenario: Scenario, workload: Workload, policy: Policy): number {
  return summarizeSimulation(simulate({ scenario, workload, policy })).violationRatio;
}

function named(policy: Policy, name: string): Policy {
  return { ...policy, name, dispatch: servingDispatch({ drop: 'expired' }) };
}
