import { InvalidArgumentError } from '../base/errors.ts';
import { blindSplitPolicy } from '../policy/blind-split.ts';
import { infaasPolicy } from '../policy/infaas.ts';
import { infadapterPolicy } from '../policy/infadapter.ts';
import { modelSwitchingPolicy } from '../policy/model-switching.ts';
import type { Policy } from '../policy/policy.ts';
import { proteusPolicy } from '../policy/proteus.ts';
import { replicaAutoscalerPolicy } from '../policy/replica-autoscalers.ts';
import { type DropRule, servingDispatch } from '../policy/serving-dispatch.ts';
import { slackFitPolicy } from '../policy/slackfit.ts';
import { staticPolicy } from '../policy/static.ts';
import { trivialPolicy } from '../policy/trivial.ts';
import { bonsaiPolicy } from '../policy/work-mdp/bonsai.ts';
import type { Scenario } from './scenario.ts';
import { bestStatic, tunedTrivial } from './tuning.ts';
import type { Workload } from './workload.ts';

/** How the servers of a policy work: its usual stack, so that each is compared as it would be run. */
export type Plumbing = Pick<Scenario, 'discipline' | 'residency' | 'loaderWeight' | 'parallelLoads'>;

/** A policy with its plumbing, as `--compare` runs it. */
export interface Contestant {
  readonly name: string;
  readonly meaning: string;
  readonly plumbing: Plumbing;
  /** Searches many runs first, which takes a minute a seed. */
  readonly isSlow?: true;
  /** Some look at the workload first: those that are tuned, or chosen in hindsight. */
  makePolicy(scenario: Scenario, workload: Workload): Policy;
}

/** The thesis' stack: a server per task, loads at full weight and at once, the old version leaves. */
const LOADING: Plumbing = { discipline: 'ps', residency: 1, loaderWeight: 1, parallelLoads: 64 };
const PRELOADED: Plumbing = { ...LOADING, residency: 'all' };
/** Two versions of each task, and room for the two that follow them. */
const SPLITTING: Plumbing = { ...LOADING, residency: 4 };
/** A deadline queue with every version in memory. */
export const RESIDENT: Plumbing = {
  discipline: 'edf',
  residency: 'all',
  loaderWeight: 0.015,
  parallelLoads: 1,
};

/** Violations that tuned and hindsight policies may have: the thesis' own figure in its co-allocation experiment. */
export const TUNING_LIMIT = 0.0066;

export const CONTESTANTS: readonly Contestant[] = [
  fixed('static:smallest', 'smallest versions', LOADING, () => staticPolicy('smallest')),
  fixed('static:largest', 'most accurate versions', LOADING, () => staticPolicy('largest')),
  {
    name: 'static:hindsight',
    meaning: 'the largest version that keeps the limit on this very workload',
    plumbing: PRELOADED,
    makePolicy: (scenario, workload) => served(bestStatic(scenario, workload, TUNING_LIMIT)),
  },
  fixed('trivial', "the thesis' policy", LOADING, () => trivialPolicy()),
  fixed('trivial:latency', 'the same by latency', LOADING, () => trivialPolicy({ metric: 'latency' })),
  fixed('trivial:flops', 'the same by multiply-accumulates', LOADING, () =>
    trivialPolicy({ metric: 'flops' }),
  ),
  fixed('trivial:preloaded', 'trivial with every version in memory', PRELOADED, () => trivialPolicy()),
  {
    name: 'trivial:tuned',
    meaning: 'trivial, its constants searched on this very workload',
    isSlow: true,
    plumbing: LOADING,
    makePolicy: (scenario, workload) => served(tunedTrivial(scenario, workload, { limit: TUNING_LIMIT })),
  },
  {
    name: 'trivial:tuned-preloaded',
    meaning: 'both',
    isSlow: true,
    plumbing: PRELOADED,
    makePolicy: (scenario, workload) => served(tunedTrivial(scenario, workload, { limit: TUNING_LIMIT })),
  },
  fixed('model-switching:ps', 'highest effective accuracy by a table', PRELOADED, () =>
    modelSwitchingPolicy(),
  ),
  fixed(
    'model-switching',
    'the same with a deadline queue and early drops',
    RESIDENT,
    () => modelSwitchingPolicy(),
    'hopeless',
  ),
  fixed('infaas', 'INFaaS-like, by its source', LOADING, () => infaasPolicy()),
  fixed('proteus', 'linear program every 20 s', SPLITTING, () => proteusPolicy()),
  fixed('infadapter', 'linear program every 30 s for the peak', SPLITTING, () => infadapterPolicy()),
  ...[0.7, 0.8, 0.9].map((utilization) =>
    fixed(`blind-split:${utilization}`, 'linear program every second', RESIDENT, () =>
      blindSplitPolicy({ utilization }),
    ),
  ),
  fixed('slackfit', 'SuperServe: what fits the slack', RESIDENT, () => slackFitPolicy()),
  fixed('slackfit:queue-aware', 'the same, leaving time for those behind', RESIDENT, () =>
    slackFitPolicy({ queueAware: true }),
  ),
  fixed('bonsai', 'queue and price of work planned, every version in memory', RESIDENT, () => bonsaiPolicy()),
  fixed(
    'bonsai:3-resident',
    'the same with three versions of each task in memory',
    { ...RESIDENT, residency: 3 },
    () => bonsaiPolicy(),
  ),
  {
    name: 'bonsai:1-resident',
    meaning: 'the same where a server holds one version of each task, which answers',
    plumbing: LOADING,
    makePolicy: () => served({ ...bonsaiPolicy(), dispatch: undefined }),
  },
  fixed('hpa', 'Kubernetes HPA, versions for replicas', LOADING, () => replicaAutoscalerPolicy('hpa')),
  fixed('kpa', 'Knative KPA, versions for replicas', LOADING, () => replicaAutoscalerPolicy('kpa')),
  fixed('ray', 'Ray Serve, versions for replicas', LOADING, () => replicaAutoscalerPolicy('ray')),
];

/**
 * The contestants of a list of names: `all` (without the slow ones), `everything`, or names separated by commas.
 * @throws InvalidArgumentError for a name that is not there
 */
export function contestantsOf(list: string): Contestant[] {
  if (list === 'everything') return [...CONTESTANTS];
  if (list === 'all') return CONTESTANTS.filter(({ isSlow }) => isSlow === undefined);
  return list.split(',').map((name) => {
    const found = CONTESTANTS.find((contestant) => contestant.name === name.trim());
    if (found !== undefined) return found;
    const known = CONTESTANTS.map((contestant) => contestant.name).join(', ');
    throw new InvalidArgumentError(`There is no contestant "${name}". Known: all, everything, ${known}.`);
  });
}

/**
 * The usual servers of a policy that is no contestant by itself, such as `maximal-metric:0.1`, `static:digits=3` or `bonsai:0.9`:
 * those of its kind. A policy that nobody knows gets a deadline queue with every version in memory.
 */
export function plumbingOf(spec: string): Plumbing {
  const known = CONTESTANTS.find(({ name }) => name === spec);
  if (known !== undefined) return known.plumbing;
  if (/^(static|maximal-metric):/.test(spec)) return LOADING;
  const kind = CONTESTANTS.find(({ name }) => spec.startsWith(`${name}:`) || name.startsWith(`${spec}:`));
  return kind?.plumbing ?? RESIDENT;
}

function fixed(
  name: string,
  meaning: string,
  plumbing: Plumbing,
  policy: () => Policy,
  drop?: DropRule,
): Contestant {
  return { name, meaning, plumbing, makePolicy: () => served(policy(), drop) };
}

/**
 * Policies that only name versions are answered by them; requests whose deadline has passed in the queue are given
 * up, as their clients do.
 */
export function served(policy: Policy, drop: DropRule = 'expired'): Policy {
  return policy.dispatch === undefined ? { ...policy, dispatch: servingDispatch({ drop }) } : policy;
}
