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

/** The load of the experiments: the most accurate versions need so many times the CPU. */
const OVERLOAD = 2;

/**
 * Demand of the traces rises to one and a half times its mean and more, and requests cost a live server up to half as much again as in its
 * profile: no policy could answer what comes from a higher mean.
 */
const MOST_OF_FASTEST = 0.4;

/**
 * @returns `OVERLOAD`, or less where a family is so flat that its fastest versions would be filled by two fifths at less: where
 * sockets cost as much as inferences, smaller networks answer hardly more
 */
export function feasibleOverload(scenario: Scenario): number {
  const shareOfFastest = scenario.tasks.reduce((sum, task) => {
    const figures = versionFigures(task, scenario);
    const fastestMs = Math.min(...figures.map(({ serviceMs }) => serviceMs));
    return sum + fastestMs / figures[0]!.serviceMs / scenario.tasks.length;
  }, 0);
  return Math.min(OVERLOAD, MOST_OF_FASTEST / shareOfFastest);
}

/** Demand at which the most accurate versions need so many times the CPU, each task the same part of it. */
export function overloadRates(scenario: Scenario, overload: number): number[] {
  return scenario.tasks.map((task) => {
    const [largest] = versionFigures(task, scenario);
    return (1000 * overload) / scenario.tasks.length / largest!.serviceMs;
  });
}
