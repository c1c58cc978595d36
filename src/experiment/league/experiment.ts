import { setImmediate } from 'node:timers/promises';
import type { DemandProfile } from '../../load/arrivals.ts';
import { profileOf, type Variant } from '../../repository/types.ts';
import { type Comparison, compare } from '../../simulate/compare.ts';
import { contestantsOf } from '../../simulate/contestants.ts';
import { oracleBounds } from '../../simulate/oracle-bounds.ts';
import { makeScenario, type Scenario } from '../../simulate/scenario.ts';
import type { Experiment } from '../experiment.ts';
import type { Lab } from '../lab.ts';
import { feasibleOverload, overloadRates, serverScenario, THESIS_SLO_MS } from '../live/scenario.ts';
import { burstsOf, KNOWN_TRACES, knownTrace, windowsOf } from '../traces.ts';
import { drawLeague } from './draw.ts';

export interface LeagueResults {
  readonly tasks: readonly string[];
  /** Factor by which the families are slower than here, so that they are as slow as the thesis'. */
  readonly slowness: number;
  readonly lengthMs: number;
  readonly seeds: readonly number[];
  readonly windows: readonly {
    readonly name: string;
    readonly meansRps: readonly number[];
    readonly rows: readonly LeagueRow[];
  }[];
  /** Traces that were asked for and are not there. */
  readonly missing: readonly string[];
}

export type LeagueRow = Pick<Comparison, 'name' | 'meaning' | 'intervals'>;

/** The largest version for CIFAR-10 in the thesis, on one CPU of a Raspberry Pi 4. */
const THESIS_SLOWEST_RPS = 4.3;

/** What a window of so much virtual time takes, all policies and bounds: measured, 22 policies on a machine of 2 cores. */
const REAL_PER_VIRTUAL = 0.04;

/** All policies on recorded demand, in virtual time. */
export const league: Experiment<LeagueResults> = {
  name: 'league',
  thesis: 'beyond: all policies of section 2.3 and 4.4',
  question: 'Which policy gets the most accuracy at the fewest violations out of recorded demand?',
  estimateMs: ({ scale, traces }) =>
    (traces === undefined ? 1 : KNOWN_TRACES.length + 1) *
    scale.leagueSeeds *
    scale.leagueMs *
    REAL_PER_VIRTUAL,
  async run(lab) {
    const { leagueMs: lengthMs, leagueSeeds } = lab.scale;
    const { scenario, slowness } = slowedScenario(lab);
    const meansRps = overloadRates(scenario, feasibleOverload(scenario));
    const seeds = Array.from({ length: leagueSeeds }, (_, i) => lab.seed + i);
    const { demands, missing } = await demandsOf(lab, meansRps, lengthMs);
    const windows: LeagueResults['windows'][number][] = [];
    for (const { name, demand } of demands)
      windows.push({
        name,
        meansRps,
        rows: await lab.part(name, () => rowsOf(lab, scenario, demand, seeds, name)),
      });
    return {
      tasks: scenario.tasks.map(({ task }) => task),
      slowness,
      lengthMs,
      seeds,
      windows,
      missing,
    };
  },
  draw: drawLeague,
};

/** The lab's families at the speed of the thesis' hardware: policies are made for seconds, not for milliseconds. */
function slowedScenario(lab: Lab): { scenario: Scenario; slowness: number } {
  const manifests = lab.tasks.map(({ manifest }) => manifest);
  const [first] = serverScenario(manifests, THESIS_SLO_MS).tasks;
  const slowest = Math.min(...first!.variants.map((variant) => profileOf(variant)!.throughputRps.median));
  const slowness = slowest / THESIS_SLOWEST_RPS;
  const slowed = manifests.map((manifest) => ({
    ...manifest,
    variants: manifest.variants.map((variant) => slowedVariant(variant, slowness)),
  }));
  return {
    scenario: makeScenario({ ...serverScenario(slowed, THESIS_SLO_MS), admission: 'all' }),
    slowness,
  };
}

function slowedVariant(variant: Variant, slowness: number): Variant {
  const profile = profileOf(variant);
  if (profile === undefined) return variant;
  const { throughputRps, latencyMs, target } = profile;
  return {
    ...variant,
    profiles: {
      [target.fingerprint]: {
        ...profile,
        latencyMs: { ...latencyMs, median: latencyMs.median * slowness },
        throughputRps: { ...throughputRps, median: throughputRps.median / slowness },
      },
    },
  };
}

async function demandsOf(
  lab: Lab,
  meansRps: readonly number[],
  lengthMs: number,
): Promise<{ demands: { name: string; demand: DemandProfile[] }[]; missing: string[] }> {
  const demands: { name: string; demand: DemandProfile[] }[] = [];
  const missing: string[] = [];
  for (const { name } of KNOWN_TRACES) {
    const trace = lab.traces === undefined ? undefined : await knownTrace(lab.traces, name);
    if (trace === undefined) missing.push(name);
    else demands.push({ name, demand: windowsOf(trace, meansRps, lengthMs) });
  }
  demands.push({ name: 'made-up bursts', demand: burstsOf(meansRps, lengthMs, 1) });
  return { demands, missing };
}

async function rowsOf(
  lab: Lab,
  scenario: Scenario,
  demand: readonly DemandProfile[],
  seeds: readonly number[],
  window: string,
): Promise<LeagueRow[]> {
  const onRun = async (name: string, seed: number) => {
    lab.say(`${window}: ${name}, seed ${seed}`);
    await setImmediate();
    lab.signal.throwIfAborted();
  };
  const setting = { scenario, demand, workload: {}, seeds, onRun };
  const rows = await compare({ ...setting, contestants: contestantsOf('all') });
  const bounds = await oracleBounds(setting);
  return [...rows, ...bounds].map(({ name, meaning, intervals }) => ({ name, meaning, intervals }));
}
