import type { Dim, Shape } from '../graph/model.ts';
import { labelledAxes } from './label-tensor.ts';
import type { CouplingContext, Labels } from './op.ts';

/**
 * Coupling of an element-wise operator over right-aligned, broadcasting operands. Channels that meet are united;
 * an operand that has size 1 where another has channels imposes nothing; a parameter that carries the channel axis
 * is sliced with it; an activation that carries it without being prunable freezes the others.
 */
export function coupleBroadcast(context: CouplingContext): void {
  const operands = operandsOf(context);
  const labelled = operands.flatMap((operand) => (operand.labels === undefined ? [] : [operand.labels]));
  const out = context.yShape(0);
  const freezeAll = (reason: string) => {
    for (const labels of labelled) context.freeze(labels.data, reason);
  };
  if (labelled.length === 0) return;
  if (out === undefined || operands.some((operand) => operand.shape === undefined)) {
    freezeAll('meets an operand of unknown rank');
    return;
  }
  const rank = out.length;
  const sizes = operands.map((operand) => aligned(operand.shape ?? [], rank));

  let common: Labels | undefined; // Of the operands seen so far.
  for (const [i, operand] of operands.entries()) {
    if (operand.labels === undefined) continue;
    const labels: Labels = { shape: aligned(operand.labels.shape, rank), data: operand.labels.data };
    if (labels.data.length === 1 && sizes[i]!.some((size, axis) => size === 1 && out[axis] !== 1)) {
      context.freeze(labels.data, 'is a single channel that spreads over others');
      continue;
    }
    if (common === undefined) {
      common = labels;
    } else if (labelledAxes(common).join() !== labelledAxes(labels).join()) {
      freezeAll('meets channels along another axis');
      return;
    } else {
      common = uniteLabels(context, common, labels);
    }
  }
  if (common === undefined) return;

  const axes = labelledAxes(common);
  for (const [i, operand] of operands.entries()) {
    if (operand.labels !== undefined) continue;
    for (const axis of axes) {
      if (sizes[i]![axis] === 1) continue;
      const own = axis - (rank - operand.shape!.length);
      if (context.isParameter(operand.input) && axes.length === 1 && sizes[i]![axis] === common.shape[axis]) {
        context.bind(operand.input, own, common.data);
      } else {
        context.freeze(common.data, 'meets an operand with the same axis that cannot be sliced');
      }
    }
  }
  context.produce(0, common);
}

/**
 * Unites equal-shaped labels position by position. A position without a channel (negative) can never go, so the
 * label that it meets is frozen.
 */
export function uniteLabels(context: CouplingContext, a: Labels, b: Labels): Labels {
  const both: number[] = [];
  const lonely: number[] = [];
  const merged = a.data.map((label, i) => {
    const other = b.data[i]!;
    if (label >= 0 && other >= 0) both.push(i);
    else if (label >= 0 || other >= 0) lonely.push(Math.max(label, other));
    return Math.max(label, other) >= 0 && label < 0 ? other : label;
  });
  context.unite(
    Int32Array.from(both, (i) => a.data[i]!),
    Int32Array.from(both, (i) => b.data[i]!),
  );
  if (lonely.length > 0)
    context.freeze(Int32Array.from(lonely), 'meets a position that belongs to no channel');
  return { shape: a.shape, data: merged };
}

/** Labels go through unchanged: element-wise operators of one input, whatever they compute. */
export function passLabels(context: CouplingContext): void {
  const labels = context.labels(0);
  if (labels !== undefined) context.produce(0, labels);
}

interface Operand {
  readonly input: number;
  readonly shape: Shape | undefined;
  readonly labels: Labels | undefined;
}

function operandsOf(context: CouplingContext): Operand[] {
  return context.node.inputs.map((_, input) => ({
    input,
    shape: context.xShape(input),
    labels: context.labels(input),
  }));
}

/** A shape with leading ones up to the rank. */
function aligned<D extends Dim>(shape: readonly D[], rank: number): (D | 1)[] {
  return [...Array<1>(rank - shape.length).fill(1), ...shape];
}
