import { BonsaiError } from '../base/errors.ts';
import type { Decision, Policy } from './policy.ts';

/**
 * What a policy's `decide` returned, if it is a decision: a policy may be somebody's own file, which no compiler has seen.
 * @param value anything
 * @throws BonsaiError `invalid_argument` that names the policy and says what it returned
 */
export function checkedDecision(policy: string, value: unknown): Decision {
  const problem = problemOfDecision(value);
  if (problem === undefined) return value as Decision; // problemOfDecision has looked.
  throw new BonsaiError(
    'invalid_argument',
    `Policy ${policy} must return { actions, reason } from decide(state): ${problem}.`,
  );
}

/**
 * How often a policy wants to be asked, in ms.
 * @param defaultMs where it does not say
 * @throws BonsaiError `invalid_argument` for a `periodMs` that is no number of at least `LEAST_PERIOD_MS`
 */
export function periodMsOf({ name, periodMs }: Policy, defaultMs = 1_000): number {
  if (periodMs === undefined) return defaultMs;
  if (typeof periodMs === 'number' && Number.isFinite(periodMs) && periodMs >= LEAST_PERIOD_MS)
    return periodMs;
  throw new BonsaiError(
    'invalid_argument',
    `Policy ${name} must have a periodMs of at least ${LEAST_PERIOD_MS} (ms), or none; it is ${told(periodMs)}.`,
  );
}

/** Timers are no finer; who is asked without pause has no time between. */
const LEAST_PERIOD_MS = 1;

/**
 * What is wrong with the form of what a dispatch's `pick` returned, as the rest of a sentence that begins with its name.
 * Whether the request and the version are there, only the caller knows.
 */
export function problemOfPick(value: unknown): string | undefined {
  if (!isRecord(value)) return `returned ${told(value)} from pick(state)`;
  const { kind, batch } = value;
  if (kind !== 'run' && kind !== 'shed' && kind !== 'wait')
    return `returned the kind ${told(kind)}, not run, shed or wait`;
  if (batch === undefined || (Number.isInteger(batch) && Number(batch) >= 1)) return undefined;
  return `wanted a batch of ${told(batch)}, not 1 or more`;
}

function problemOfDecision(value: unknown): string | undefined {
  if (!isRecord(value)) return `it returned ${told(value)}`;
  if (value instanceof Promise) return 'it returned a promise, and must not be async';
  const { actions, residency = [], reason } = value;
  if (typeof reason !== 'string') return `its reason is ${told(reason)}, no text`;
  if (!Array.isArray(actions)) return `its actions are ${told(actions)}, no list`;
  if (!Array.isArray(residency)) return `its residency is ${told(residency)}, no list`;
  const action = actions.findIndex((entry) => !isNamed(entry, ['switch'], 'toVersion'));
  if (action >= 0) return `an action is ${told(actions[action])}, not { kind: 'switch', task, toVersion }`;
  const move = residency.findIndex((entry) => !isNamed(entry, ['load', 'unload'], 'version'));
  if (move >= 0)
    return `an entry of its residency is ${told(residency[move])}, not { kind: 'load' or 'unload', task, version }`;
  return undefined;
}

function isNamed(entry: unknown, kinds: readonly string[], version: string): boolean {
  if (!isRecord(entry) || typeof entry.task !== 'string') return false;
  return kinds.includes(entry.kind as string) && Number.isInteger(entry[version]);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

/** A value for a message, short whatever it is. */
function told(value: unknown): string {
  if (typeof value === 'object' && value !== null)
    return `an object of { ${Object.keys(value).slice(0, 5).join(', ')} }`;
  return typeof value === 'string' ? `"${value.slice(0, 40)}"` : String(value);
}
