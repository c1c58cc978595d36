import { BonsaiError, InvalidArgumentError } from '../base/errors.ts';
import { COST_METRICS, type CostMetric } from '../repository/types.ts';
import { blindSplitPolicy } from './blind-split.ts';
import { infaasDefaults, infaasPolicy } from './infaas.ts';
import { infadapterPolicy } from './infadapter.ts';
import { maximalMetricPolicy } from './maximal-metric.ts';
import { modelSwitchingDefaults, modelSwitchingPolicy } from './model-switching.ts';
import type { Policy } from './policy.ts';
import { proteusPolicy } from './proteus.ts';
import { type ReplicaAutoscaler, replicaAutoscalerPolicy } from './replica-autoscalers.ts';
import { slackFitPolicy } from './slackfit.ts';
import { staticPolicy } from './static.ts';
import { type TrivialOptions, trivialPolicy } from './trivial.ts';
import { bonsaiPolicy } from './work-mdp/bonsai.ts';

/** Constants that replace the defaults of a policy; `timeScale` < 1 shortens every time constant. */
export type PolicyOptions = Omit<TrivialOptions, 'metric'>;

/** What `policyByName` understands, as help texts and errors show it: policies for servers that hold one version per task. */
export const POLICY_NAMES = [
  'static:largest',
  'static:smallest',
  'static:TASK=VERSION[,TASK=VERSION…]',
  'trivial',
  'trivial:inverseThroughput',
  'trivial:latency',
  'trivial:flops',
  'maximal-metric[:METRIC]:LIMIT',
  'maximal-metric[:METRIC]:TASK=LIMIT[,TASK=LIMIT…]',
  'model-switching',
  'infaas',
  'infaas:published',
  'hpa',
  'kpa',
  'ray',
  'bonsai',
  'bonsai:UTILIZATION',
] as const;

/** What `dispatchPolicyByName` understands as well: policies that choose request by request. */
export const DISPATCH_POLICY_NAMES = [
  'proteus',
  'infadapter',
  'blind-split[:UTILIZATION]',
  'slackfit',
  'slackfit:queue-aware',
] as const;

/** How full a live server lets its CPUs become under `bonsai`. */
export const LIVE_UTILIZATION = 0.9;

/**
 * The name by which a live server runs a policy: `bonsai` keeps idle time there, since machines pause, as simulated ones do
 * not. Ten minutes of three tasks at 1.8 times the CPU (`bench/policy-live.ts`): 0.075 % late or refused for 0.175 %, and at
 * 4 points more of accuracy, for without idle time requests wait nearly to their deadlines.
 */
export function livePolicyName(spec: string): string {
  return spec === 'bonsai' ? `bonsai:${LIVE_UTILIZATION}` : spec;
}

/**
 * The policy that a name stands for.
 * @param spec one of `POLICY_NAMES`; `trivial` is `trivial:inverseThroughput`
 * @throws BonsaiError `unknown_policy` with the list of names
 * @throws InvalidArgumentError for `static:TASK=VERSION` with a version that is not a positive integer
 */
export function policyByName(spec: string, options: PolicyOptions = {}): Policy {
  const policy = switchingPolicy(spec, options);
  if (policy !== undefined) return policy;
  throw new BonsaiError('unknown_policy', `There is no policy "${spec}". Known: ${POLICY_NAMES.join(', ')}.`);
}

/**
 * The same with the policies that need several versions in memory and a dispatch of their own, which Bonsai's server and
 * the simulator have.
 * @throws BonsaiError `unknown_policy`, InvalidArgumentError
 */
export function dispatchPolicyByName(spec: string, options: PolicyOptions = {}): Policy {
  const policy = switchingPolicy(spec, options) ?? dispatchingPolicy(spec, options);
  if (policy !== undefined) return policy;
  const known = [...POLICY_NAMES, ...DISPATCH_POLICY_NAMES].join(', ');
  throw new BonsaiError('unknown_policy', `There is no policy "${spec}". Known: ${known}.`);
}

function switchingPolicy(spec: string, options: PolicyOptions): Policy | undefined {
  const { fingerprint, timeScale = 1 } = options;
  switch (spec) {
    case 'bonsai':
      return bonsaiPolicy({ fingerprint });
    case 'static:largest':
      return staticPolicy('largest');
    case 'static:smallest':
      return staticPolicy('smallest');
    case 'trivial':
    case 'trivial:inverseThroughput':
      return trivialPolicy({ ...options, metric: 'inverseThroughput' });
    case 'trivial:latency':
      return trivialPolicy({ ...options, metric: 'latency' });
    case 'trivial:flops':
      return trivialPolicy({ ...options, metric: 'flops' });
    case 'model-switching':
      return modelSwitchingPolicy({
        fingerprint,
        periodMs: modelSwitchingDefaults.periodMs * timeScale,
        windowMs: modelSwitchingDefaults.windowMs * timeScale,
      });
    case 'infaas':
    case 'infaas:published':
      return infaasPolicy({
        fingerprint,
        reading: spec === 'infaas' ? 'source' : 'published',
        periodMs: infaasDefaults.periodMs * timeScale,
        windowMs: infaasDefaults.windowMs * timeScale,
      });
    case 'hpa':
    case 'kpa':
    case 'ray':
      return replicaAutoscaler(spec, options);
  }
  const [, targetUtilization] = /^bonsai:(0?\.\d*[1-9]\d*|1)$/.exec(spec) ?? [];
  if (targetUtilization !== undefined) {
    return bonsaiPolicy({ fingerprint, targetUtilization: Number(targetUtilization) });
  }
  if (spec.startsWith('static:') && spec.includes('=')) return staticPolicy(parseChoice(spec));
  if (spec.startsWith('maximal-metric:')) {
    return maximalMetricPolicy({ ...options, ...parseLimit(spec.slice('maximal-metric:'.length), spec) });
  }
  return undefined;
}

function dispatchingPolicy(spec: string, { fingerprint }: PolicyOptions): Policy | undefined {
  switch (spec) {
    case 'proteus':
      return proteusPolicy({ fingerprint });
    case 'infadapter':
      return infadapterPolicy({ fingerprint });
    case 'blind-split':
      return blindSplitPolicy({ fingerprint });
    case 'slackfit':
      return slackFitPolicy();
    case 'slackfit:queue-aware':
      return slackFitPolicy({ queueAware: true });
  }
  const [, utilization] = /^blind-split:(\d*\.?\d+)$/.exec(spec) ?? [];
  return utilization === undefined
    ? undefined
    : blindSplitPolicy({ fingerprint, utilization: Number(utilization) });
}

function replicaAutoscaler(kind: ReplicaAutoscaler, { fingerprint, timeScale = 1 }: PolicyOptions): Policy {
  if (timeScale !== 1) {
    throw new InvalidArgumentError(
      `The intervals of ${kind} are those of the product it stands for: a time scale of ${timeScale} is not taken.`,
    );
  }
  return replicaAutoscalerPolicy(kind, { fingerprint });
}

/** `static:digits=3,signs=1` → { digits: 3, signs: 1 } */
function parseChoice(spec: string): Record<string, number> {
  const pairs = spec.slice('static:'.length).split(',');
  return Object.fromEntries(
    pairs.map((pair) => {
      const [, task, version] = /^(.+)=([1-9]\d*)$/.exec(pair) ?? [];
      if (task === undefined || version === undefined) {
        throw new InvalidArgumentError(
          `"${pair}" in policy "${spec}" is not TASK=VERSION with a positive integer, as in static:digits=3.`,
        );
      }
      return [task, Number(version)];
    }),
  );
}

/** `0.1`, `latency:0.1`, `flops:digits=2e7,signs=1e7` → metric and limit. */
function parseLimit(
  text: string,
  spec: string,
): { metric: CostMetric; limit: number | Record<string, number> } {
  const metric = COST_METRICS.find((name) => text.startsWith(`${name}:`));
  const rest = metric === undefined ? text : text.slice(metric.length + 1);
  const limitOf = (number: string) => {
    const limit = Number(number);
    if (number.trim() !== '' && limit > 0) return limit;
    throw new InvalidArgumentError(
      `"${rest}" in policy "${spec}" is no limit > 0; expected one such as maximal-metric:0.1 (seconds per inference), ` +
        'maximal-metric:latency:0.1 or maximal-metric:flops:digits=2e7.',
    );
  };
  const limit = rest.includes('=')
    ? Object.fromEntries(
        rest.split(',').map((pair) => {
          const at = pair.lastIndexOf('=');
          return [pair.slice(0, Math.max(0, at)), limitOf(pair.slice(at + 1))];
        }),
      )
    : limitOf(rest);
  return { metric: metric ?? 'inverseThroughput', limit };
}
