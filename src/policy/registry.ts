import { BonsaiError, InvalidArgumentError } from '../base/errors.ts';
import type { Policy } from './policy.ts';
import { staticPolicy } from './static.ts';
import { type TrivialOptions, trivialPolicy } from './trivial.ts';

/** Constants that replace the defaults of a policy; `timeScale` < 1 shortens every time constant. */
export type PolicyOptions = Omit<TrivialOptions, 'metric'>;

/** What `policyByName` understands, as help texts and errors show it. */
export const POLICY_NAMES = [
  'static:largest',
  'static:smallest',
  'static:TASK=VERSION[,TASK=VERSION…]',
  'trivial',
  'trivial:inverseThroughput',
  'trivial:latency',
  'trivial:flops',
] as const;

/**
 * The policy that a name stands for.
 * @param spec one of `POLICY_NAMES`; `trivial` is `trivial:inverseThroughput`
 * @throws BonsaiError `unknown_policy` with the list of names
 * @throws InvalidArgumentError for `static:TASK=VERSION` with a version that is not a positive integer
 */
export function policyByName(spec: string, options: PolicyOptions = {}): Policy {
  switch (spec) {
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
  }
  if (spec.startsWith('static:') && spec.includes('=')) return staticPolicy(parseChoice(spec));
  throw new BonsaiError('unknown_policy', `There is no policy "${spec}". Known: ${POLICY_NAMES.join(', ')}.`);
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
