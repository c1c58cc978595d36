import { chart } from '../../../src/report/chart.ts';
import { geometricChain } from '../../../src/simulate/chain.ts';
import { compare } from '../../../src/simulate/compare.ts';
import { CONTESTANTS } from '../../../src/simulate/contestants.ts';
import { builtInDemand } from '../../../src/simulate/demand.ts';
import { oracleBounds } from '../../../src/simulate/oracle-bounds.ts';
import { makeScenario } from '../../../src/simulate/scenario.ts';

/** As the comparison calls them, and as the figure does. */
const SHOWN: Readonly<Record<string, string>> = {
  'static:smallest': 'the smallest',
  'static:hindsight': 'best fixed one',
  trivial: 'trivial',
  'model-switching': 'model-switching',
  'slackfit:queue-aware': 'slackfit',
  bonsai: 'bonsai',
  'oracle:single-version': 'oracle, 1 version',
  'oracle:relaxed': 'oracle, relaxed',
};

/** Effective accuracy of some policies on bursts, beside what perfect knowledge could have got. */
export async function oracleBound(): Promise<string> {
  const setting = {
    scenario: makeScenario({ tasks: [{ task: 'task', sloMs: 400, weight: 1, variants: geometricChain() }] }),
    demand: builtInDemand('burst1'),
    workload: {},
    seeds: [1],
  };
  const contestants = CONTESTANTS.filter(({ name }) => Object.hasOwn(SHOWN, name));
  const rows = [...(await compare({ ...setting, contestants })), ...(await oracleBounds(setting))];
  return chart({
    id: 'oracle-bound',
    title: 'Policies on bursts, and the bounds of perfect knowledge',
    height: 300,
    x: { title: 'policy', names: Object.values(SHOWN) },
    y: { title: 'accuracy in time, % of the best', domain: [50, 100] },
    series: [
      {
        name: 'effective accuracy',
        kind: 'dots',
        points: Object.keys(SHOWN).map((name, x) => {
          const [run] = rows.find((row) => row.name === name)!.runs;
          const y = 100 * run!.effectiveAccuracy;
          return { x, y, label: y.toFixed(1) };
        }),
      },
    ],
  });
}
