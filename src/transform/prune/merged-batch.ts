import type { Dim, Model, Shape } from '../../graph/model.ts';
import { isCompoundDim, productOf } from '../../ops/dims.ts';
import type { InferredTypes } from '../../ops/infer.ts';

/**
 * Shapes of the inputs at which the axes of a network can be told apart although it merges its open batch with channels,
 * as attention does that multiplies [batch · heads, positions, width]: where a label lies on such an axis takes a number.
 * Channels do not depend on the batch, so labels found at a batch of 1 hold for all, provided that they are the same at
 * another batch, which is a prime that divides no size of the network: sizes that depend on it are known by it.
 * @returns the inputs' shapes at both; undefined where nothing is merged, or the batch has a number
 */
export function mergedBatch(model: Model, { types }: Pick<InferredTypes, 'types'>): MergedBatch | undefined {
  const { inputs, nodes } = model.graph;
  const batches = new Set(
    inputs.map(({ name }) => types.get(name)?.shape?.[0]).filter((size) => typeof size === 'string'),
  );
  if (batches.size === 0) return undefined;
  const isMerged = (size: Dim) =>
    isCompoundDim(size) && productOf([size])!.names.some((name) => batches.has(name));
  const merges = nodes.some(
    (node) => node.opType === 'Reshape' && types.get(node.outputs[0] ?? '')?.shape?.some(isMerged),
  );
  if (!merges) return undefined;

  const sizes = new Set<number>();
  for (const { shape } of types.values())
    for (const size of shape ?? []) if (size !== null) sizes.add(productOf([size])!.count);
  const primes = PRIMES.filter((prime) => [...sizes].every((size) => size % prime !== 0));
  if (primes.length < batches.size) return undefined;
  const other = new Map([...batches].map((name, i) => [name, primes[i]!]));
  const at = (batch: (name: string) => number): Record<string, Shape> =>
    Object.fromEntries(
      inputs.flatMap(({ name }) => {
        const shape = types.get(name)?.shape;
        const numbered = (size: Dim) => (typeof size === 'string' && batches.has(size) ? batch(size) : size);
        return shape === undefined ? [] : [[name, shape.map(numbered)]];
      }),
    );
  return { one: at(() => 1), other: at((name) => other.get(name)!) };
}

export interface MergedBatch {
  readonly one: Readonly<Record<string, Shape>>;
  readonly other: Readonly<Record<string, Shape>>;
}

/** Candidates: few networks have sizes that they divide, and labels along merged axes stay short. */
const PRIMES: readonly number[] = [
  17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97,
];
