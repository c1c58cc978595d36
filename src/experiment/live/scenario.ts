import { acceptableOf, frontierOf } from '../../repository/frontier.ts';
import type { TaskManifest } from '../../repository/types.ts';
import { makeScenario, type Scenario, versionFigures } from '../../simulate/scenario.ts';

/** The thesis' latency objective in all experiments (section 5.4.1). */
export const THESIS_SLO_MS = 400;

/** A Bonsai server in virtual time: what the policies may use, with the admission and the margins of the real one. */
export function serverScenario(manifests: readonly TaskManifest[], sloMs: number): Scenario {
  return makeScenario({
    tasks: manifests.map(({ task, variants }) => ({
      task,
      sloMs,
      weight: 1,
      variants: acceptableOf(frontierOf(variants, 'inverseThroughput'), undefined),
    })),
    admission: 'feasible',
    residency: 'all',
  });
}

/** Demand at which the most accurate versions need so many times the CPU, each task the same part of it. */
export function overloadRates(scenario: Scenario, overload: number): number[] {
  return scenario.tasks.map((task) => {
    const [largest] = versionFigures(task, scenario);
    return (1000 * overload) / scenario.tasks.length / largest!.serviceMs;
  });
}
