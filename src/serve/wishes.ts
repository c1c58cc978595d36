import { InvalidRequestError, NotReadyError } from './errors.ts';
import type { LiveVersion } from './live-version.ts';
import type { ServedModel } from './served-model.ts';

/** What a request may ask for beyond an answer, by the same names in both protocols. */
export interface Wishes {
  /** The version that is to answer; undefined: one that the server chooses. */
  readonly version?: number;
  /** The least accuracy on test data, in [0, 1], of the version that answers. */
  readonly minAccuracy?: number;
  /** Longest time until the answer. */
  readonly maxLatencyMs?: number;
  /** Rather the most accurate version that is in time, or rather the fastest. */
  readonly prefer?: 'accuracy' | 'latency';
  /** `batch`: no deadline; answered when nothing else is to do. Default `realtime`. */
  readonly priority?: 'realtime' | 'batch';
  /** Importance under overload; 1 by default, 0 or more. */
  readonly weight?: number;
}

/**
 * Triton's numeric priority as a weight: 0 is the default level and 1 the highest, larger numbers matter less.
 * The default lies between the first level and the second.
 */
export function weightOfPriority(level: number): number {
  return level === 0 ? 1 : 1.5 / level;
}

/** Accuracies are compared with this tolerance, since a client sends them rounded or as they came through JSON. */
export const ACCURACY_TOLERANCE = 1e-9;

/**
 * Refuses wishes that no version can fulfil, naming those that can be fulfilled.
 * @throws InvalidRequestError where no version of the task could; NotReadyError where one could that is not in memory
 */
export function checkWishes(model: ServedModel, wishes: Wishes, asked: LiveVersion | undefined): void {
  if (wishes.priority === 'batch' && wishes.maxLatencyMs !== undefined) {
    throw new InvalidRequestError(
      "priority 'batch' waits until nothing else is to do, so it cannot have max_latency_ms; leave one of them out",
    );
  }
  const { minAccuracy } = wishes;
  if (minAccuracy === undefined) return;
  const resident = model.liveVersions.map(({ version, accuracy }) => ({ version, accuracy }));
  if (asked !== undefined) {
    if (reaches(asked.accuracy, minAccuracy)) return;
    throw new InvalidRequestError(
      `version ${asked.version} of '${model.name}' ${accuracyText(asked.accuracy)}, which is below min_accuracy ${minAccuracy}; in memory: ${listed(resident)}`,
    );
  }
  if (resident.some(({ accuracy }) => reaches(accuracy, minAccuracy))) return;
  const stored = (model.stored?.versions ?? []).map(({ version, variant }) => ({
    version,
    accuracy: variant?.accuracy.test,
  }));
  const able = stored.filter(({ accuracy }) => reaches(accuracy, minAccuracy));
  if (able.length > 0) {
    throw new NotReadyError(
      `no version of '${model.name}' in memory reaches min_accuracy ${minAccuracy}; in memory: ${listed(resident)}; the repository also has ${listed(able)}`,
    );
  }
  throw new InvalidRequestError(
    `no version of '${model.name}' reaches min_accuracy ${minAccuracy}; it has ${listed(stored.length > 0 ? stored : resident)}`,
  );
}

function reaches(accuracy: number | undefined, minAccuracy: number): boolean {
  return minAccuracy <= 0 || (accuracy !== undefined && accuracy >= minAccuracy - ACCURACY_TOLERANCE);
}

interface Rated {
  readonly version: number;
  readonly accuracy: number | undefined;
}

/** So many versions are named in a message. */
const MAX_LISTED = 16;

function listed(versions: readonly Rated[]): string {
  const shown = versions
    .slice(0, MAX_LISTED)
    .map(({ version, accuracy }) => `version ${version} (${accuracyText(accuracy)})`);
  const rest = versions.length - shown.length;
  return `${shown.join(', ') || 'none'}${rest > 0 ? ` and ${rest} more` : ''}`;
}

function accuracyText(accuracy: number | undefined): string {
  return accuracy === undefined ? 'has no known accuracy' : `has accuracy ${accuracy}`;
}
