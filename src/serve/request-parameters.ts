import { InvalidRequestError } from './errors.ts';
import { type Wishes, weightOfPriority } from './wishes.ts';

/** A request's parameter by its name, as either protocol has it; undefined where it is absent. */
export type ParameterLookup = (name: string) => unknown;

const US_PER_MS = 1000;

/** `timeout` (in µs, 0: none): the longest wait before the inference begins. @throws InvalidRequestError */
export function timeoutMsOf(parameter: ParameterLookup): number | undefined {
  const timeoutUs = numberOf(parameter, 'timeout');
  return timeoutUs === undefined || timeoutUs === 0 ? undefined : timeoutUs / US_PER_MS;
}

/**
 * Request parameters that say more than the protocol: `min_accuracy`, `max_latency_ms`, `prefer`, `priority`.
 * @throws InvalidRequestError
 */
export function wishesOf(parameter: ParameterLookup): Omit<Wishes, 'version'> {
  const minAccuracy = numberOf(parameter, 'min_accuracy');
  if (minAccuracy !== undefined && minAccuracy > 1)
    throw new InvalidRequestError(`parameter 'min_accuracy' must be from 0 to 1, got ${minAccuracy}`);
  return {
    minAccuracy,
    maxLatencyMs: numberOf(parameter, 'max_latency_ms'),
    prefer: choiceOf(parameter, 'prefer', ['accuracy', 'latency']),
    ...priorityOf(parameter('priority')),
  };
}

/** The parameters that bear on whether a request is taken in. */
const ADMISSION_PARAMETERS = ['timeout', 'min_accuracy', 'max_latency_ms', 'prefer', 'priority'].map((name) =>
  Buffer.from(name),
);

const BACKSLASH = 0x5c;

/**
 * Whether the JSON of a request may hold a parameter that bears on whether it is taken in. Searching for their names
 * takes a fiftieth of the time of reading the JSON. Names can also be written with escapes, so those count as well.
 */
export function mayHaveWishes(json: Uint8Array): boolean {
  const text = Buffer.from(json.buffer, json.byteOffset, json.byteLength);
  return text.includes(BACKSLASH) || ADMISSION_PARAMETERS.some((name) => text.includes(name));
}

/** A class, or Triton's number: 0 the default, 1 the highest. */
function priorityOf(value: unknown): Pick<Wishes, 'priority' | 'weight'> {
  if (value === undefined) return {};
  if (value === 'realtime' || value === 'batch') return { priority: value };
  if ((typeof value === 'number' && Number.isInteger(value)) || typeof value === 'bigint') {
    if (value >= 0) return { weight: weightOfPriority(Number(value)) };
  }
  throw new InvalidRequestError("parameter 'priority' must be 'realtime', 'batch' or an integer, 0 or more");
}

function choiceOf<T extends string>(
  parameter: ParameterLookup,
  name: string,
  choices: readonly T[],
): T | undefined {
  const value = parameter(name);
  if (value === undefined) return undefined;
  const choice = choices.find((candidate) => candidate === value);
  if (choice !== undefined) return choice;
  throw new InvalidRequestError(
    `parameter '${name}' must be ${choices.map((text) => `'${text}'`).join(' or ')}`,
  );
}

function numberOf(parameter: ParameterLookup, name: string): number | undefined {
  const value = parameter(name);
  if (value === undefined) return undefined;
  if ((typeof value === 'number' || typeof value === 'bigint') && value >= 0) return Number(value);
  throw new InvalidRequestError(`parameter '${name}' must be a number, 0 or more`);
}
