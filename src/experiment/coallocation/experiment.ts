import { type DemandProfile, dueTimes } from '../../load/arrivals.ts';
import type { Scenario } from '../../simulate/scenario.ts';
import type { SimulationSummary } from '../../simulate/summary.ts';
import type { Experiment } from '../experiment.ts';
import type { Lab } from '../lab.ts';
import { volatileDemand } from '../live/demand.ts';
import { oracleOn, simulatedOn } from '../live/expected.ts';
import type { LiveRun } from '../live/live-run.ts';
import { fileName } from '../live/run-tasks.ts';
import { feasibleOverload, overloadRates, serverScenario, THESIS_SLO_MS } from '../live/scenario.ts';
import { servedRunMs, serveUnder } from '../live/serve-policy.ts';
import { drawCoallocation } from './draw.ts';

export interface CoallocationResults {
  readonly iterations: readonly {
    /** Of demand and arrivals. */
    readonly seed: number;
    /** Mean demand by task. */
    readonly meansRps: readonly number[];
    readonly runs: readonly LiveRun[];
    /** On the same arrivals: what the simulator says of each policy, and what perfect knowledge could have got. */
    readonly expected: readonly Expected[];
  }[];
}

export interface Expected {
  readonly name: string;
  readonly normalisedAccuracy: number;
  readonly violationRatio: number;
  readonly cpuUtilization: number;
}

export const COALLOCATION_POLICIES = ['static:largest', 'static:smallest', 'trivial', 'bonsai'] as const;

/** Figure 5.18: three tasks with demands of their own on one CPU. */
export const coallocation: Experiment<CoallocationResults> = {
  name: 'coallocation',
  thesis: 'Fig. 5.18, A.2, Table 5.2',
  question:
    'Three tasks share one CPU: how accurate are answers, how many are late, how well is the CPU used?',
  estimateMs: (lab) =>
    lab.scale.iterations *
    policiesOf(lab).length *
    servedRunMs(lab, lab.scale.coallocationMs + lab.scale.warmUpMs),
  async run(lab) {
    const iterations: CoallocationResults['iterations'][number][] = [];
    for (let i = 0; i < lab.scale.iterations; i++) {
      const seed = lab.seed + i;
      const { coallocationMs: durationMs, warmUpMs } = lab.scale;
      const scenario = serverScenario(
        lab.tasks.map(({ manifest }) => manifest),
        THESIS_SLO_MS,
      );
      const meansRps = overloadRates(scenario, feasibleOverload(scenario) * lab.cpus.length);
      const demand = await volatileDemand(lab, { meansRps, durationMs, warmUpMs, seed });
      const runs: LiveRun[] = [];
      for (const policy of policiesOf(lab)) {
        const name = `${policy}${i === 0 ? '' : `, iteration ${i + 1}`}`;
        runs.push(
          await lab.part(fileName(name), () =>
            serveUnder(lab, { name, policy, tasks: lab.tasks, demand, durationMs, warmUpMs, seed }),
          ),
        );
      }
      const expected = await lab.part(`expected ${i + 1}`, async () =>
        expectedOf(lab, scenario, demand, seed),
      );
      iterations.push({ seed, meansRps, runs, expected });
    }
    return { iterations };
  },
  draw: drawCoallocation,
};

/** What real servers were asked is given to the simulator and to the oracle. */
function expectedOf(
  lab: Lab,
  scenario: Scenario,
  demand: readonly DemandProfile[],
  seed: number,
): Expected[] {
  const { coallocationMs, warmUpMs } = lab.scale;
  const arrivals = {
    due: demand.map((profile, k) => dueTimes(profile, { spacing: 'poisson', seed: seed * 100 + k })),
    countedFromMs: warmUpMs,
    lengthMs: coallocationMs + warmUpMs,
    seed,
  };
  const told = (name: string, summary: SimulationSummary): Expected => ({
    name,
    normalisedAccuracy: summary.meanAccuracy,
    violationRatio: summary.violationRatio,
    cpuUtilization: summary.cpuUtilization,
  });
  return [
    ...policiesOf(lab).map((policy) => told(`${policy}, simulated`, simulatedOn(policy, scenario, arrivals))),
    told('oracle: perfect knowledge', oracleOn(scenario, arrivals)),
  ];
}

function policiesOf({ scale }: Pick<Lab, 'scale'>): readonly string[] {
  return scale.name === 'full'
    ? COALLOCATION_POLICIES
    : COALLOCATION_POLICIES.filter((each) => each !== 'static:smallest');
}
