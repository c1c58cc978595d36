import { InvalidArgumentError } from '../base/errors.ts';
import type { Variant } from '../repository/types.ts';

/** A made-up family: throughputs in geometric steps, accuracy falling along a power of the place. */
export interface ChainOptions {
  readonly versions?: number;
  readonly slowestRps?: number;
  readonly fastestRps?: number;
  /** Normalised accuracy of the smallest version. */
  readonly lowestAccuracy?: number;
  /** The accuracy lost at place x in [0, 1] (logarithm of throughput) is (1 − lowest) · x^exponent. */
  readonly exponent?: number;
}

/**
 * End points are the thesis' DenseNet family on CIFAR-10 (4.30 to 76 inferences per second, 100 to 59 % normalised
 * accuracy); the curve between them is an interpolation.
 */
export const chainDefaults = {
  versions: 12,
  slowestRps: 4.3,
  fastestRps: 76,
  lowestAccuracy: 0.59,
  exponent: 2.2,
} as const;

/** More than any family has; policies that look at all pairs of versions would take hours. */
const MAX_CHAIN_VERSIONS = 256;

/** The fingerprint of the machine that simulated profiles speak of. */
export const SIMULATED_TARGET = 'simulated';

/**
 * The variants of a geometric chain, version 1 the most accurate.
 * @throws InvalidArgumentError for no version or more than 256, or numbers out of range
 */
export function geometricChain(options: ChainOptions = {}): Variant[] {
  const { versions, slowestRps, fastestRps, lowestAccuracy, exponent } = { ...chainDefaults, ...options };
  const isPossible =
    Number.isInteger(versions) &&
    versions >= 1 &&
    versions <= MAX_CHAIN_VERSIONS &&
    slowestRps > 0 &&
    fastestRps >= slowestRps &&
    lowestAccuracy >= 0 &&
    lowestAccuracy <= 1 &&
    exponent > 0;
  if (!isPossible) {
    throw new InvalidArgumentError(
      `A chain needs 1 to ${MAX_CHAIN_VERSIONS} versions, 0 < slowest ≤ fastest throughput, lowest accuracy in [0, 1] and exponent > 0; ` +
        `got ${[versions, slowestRps, fastestRps, lowestAccuracy, exponent].join(', ')}.`,
    );
  }
  return Array.from({ length: versions }, (_, index) => {
    const place = versions === 1 ? 0 : index / (versions - 1);
    return simulatedVariant({
      version: index + 1,
      throughputRps: slowestRps * (fastestRps / slowestRps) ** place,
      accuracy: 1 - (1 - lowestAccuracy) * place ** exponent,
    });
  });
}

/** A variant that exists in figures only, profiled on one CPU. */
export function simulatedVariant(figures: {
  readonly version: number;
  readonly accuracy: number;
  readonly throughputRps: number;
  readonly cpus?: number;
  readonly loadMs?: number;
}): Variant {
  const { version, accuracy, throughputRps, cpus = 1, loadMs } = figures;
  const exactly = (value: number) => ({ count: 1, mean: value, median: value, min: value, max: value });
  return {
    version,
    digest: version.toString(16).padStart(64, '0'),
    sizeBytes: 0,
    accuracy: { test: accuracy, testCount: 0 },
    // At a fixed rate of computing: then all three metrics order the family alike.
    macs: Math.round(1e9 / throughputRps),
    parameters: 0,
    lineage: {},
    profiles: {
      [SIMULATED_TARGET]: {
        target: {
          fingerprint: SIMULATED_TARGET,
          cpuModel: 'simulated',
          architecture: 'simulated',
          cpus,
          runtime: 'simulated',
          runtimeVersion: '1',
        },
        measuredAt: '1970-01-01T00:00:00.000Z',
        latencyMs: exactly((1000 * cpus) / throughputRps),
        throughputRps: exactly(throughputRps),
        concurrency: cpus,
        ...(loadMs !== undefined && { loadMs }),
      },
    },
  };
}
