import type { CouplingContext, Labels } from './op.ts';

/**
 * The labels along one axis, if they depend on nothing else; otherwise they are frozen with the reason and the
 * result is undefined, as it is where the input carries no labels.
 */
export function labelsAlong(
  context: CouplingContext,
  input: number,
  axis: number,
  size: number,
): Int32Array | undefined {
  const labels = context.labels(input);
  if (labels === undefined) return undefined;
  const fits =
    labels.shape.every((count, i) => count === (i === axis ? size : 1)) && axis < labels.shape.length;
  if (fits) return labels.data;
  const isOne = size > 1 && labels.data.length === 1;
  context.freeze(
    labels.data,
    isOne
      ? 'are all one unit, which cannot go without leaving nothing'
      : `${context.node.opType} mixes channels that do not lie along its axis ${axis}`,
  );
  return undefined;
}

/** Labels along one axis of a value of the given rank. */
export function alongAxis(data: Int32Array, axis: number, rank: number): Labels {
  return { shape: Array.from({ length: rank }, (_, i) => (i === axis ? data.length : 1)), data };
}

/** Freezes whatever flows in. */
export function freezeInputs(context: CouplingContext, reason: string): void {
  for (let i = 0; i < context.node.inputs.length; i++) {
    const labels = context.labels(i);
    if (labels !== undefined) context.freeze(labels.data, reason);
  }
}

/** Labels that do not vary over space go through an operator that works on each channel by itself, like pooling. */
export function passOverSpace(context: CouplingContext): void {
  const labels = context.labels(0);
  if (labels === undefined) return;
  if (labels.shape.slice(2).every((size) => size === 1)) context.produce(0, labels);
  else
    context.freeze(labels.data, `${context.node.opType} mixes positions that belong to different channels`);
}
