import { int64Tensor, numbersOf } from '../base/tensor.ts';
import { intAttribute, intsAttribute } from '../graph/attributes.ts';
import type { Dim } from '../graph/model.ts';
import { uniteLabels } from './broadcast.ts';
import { axisOf, requiredType } from './dims.ts';
import { ShapeError } from './errors.ts';
import { labelledAxes, sliceLabels } from './label-tensor.ts';
import { type CouplingContext, defineOp, type GradientContext } from './op.ts';
import { integersAt } from './partial.ts';

/** Cuts an axis into parts: of the sizes given (attribute before opset 13, input since), or as equal as it goes. */
export const Split = defineOp({
  schema: {
    name: 'Split',
    since: [1, 2, 11, 13, 18],
    inputs: [1, 2],
    outputs: [1, Number.POSITIVE_INFINITY],
  },
  shape: (context) => {
    const { node, opset, inputs } = context;
    const { dtype, shape } = requiredType(node, inputs, 0);
    if (shape === undefined) return node.outputs.map(() => ({ dtype }));
    const axis = axisOf(node, intAttribute(node, 'axis', 0), shape.length);
    const size = shape[axis]!;
    const given =
      opset < 13 ? intsAttribute(node, 'split') : node.inputs[1] ? integersAt(context, 1) : undefined;
    const isComputed = opset >= 13 && Boolean(node.inputs[1]) && given === undefined;
    if (given !== undefined && given.length !== node.outputs.length) {
      throw new ShapeError(node, 1, `has ${given.length} sizes for ${node.outputs.length} outputs`);
    }
    if (given !== undefined && typeof size === 'number' && given.reduce((a, b) => a + b, 0) !== size) {
      throw new ShapeError(
        node,
        0,
        `has size ${size} on axis ${axis}, the parts [${given.join(', ')}] do not add up to it`,
      );
    }
    const equal = typeof size === 'number' && !isComputed ? equalParts(size, node.outputs.length) : undefined;
    const sizes: readonly Dim[] = given ?? equal ?? node.outputs.map(() => null);
    return sizes.map((part) => ({ dtype, shape: shape.with(axis, part) }));
  },
  gradient: (context) => [context.needs(0) ? concatGradients(context) : undefined],
  // In a training graph (opset 17) the sizes are an input.
  training: ({ node, opset, build, x, xShape }) => {
    const axis = intAttribute(node, 'axis', 0);
    const size = xShape(0)[axisOf(node, axis, xShape(0).length)]!;
    const sizes =
      opset >= 13 && node.inputs[1]
        ? x(1)
        : build.ints(intsAttribute(node, 'split') ?? equalParts(size, node.outputs.length));
    build.ops('Split', [x(0), sizes], { axis }, { outputs: node.outputs, name: node.name });
  },
  coupling: coupleSplit,
});

/** Backward of a split is a concatenation; parts that nobody uses bring zeros. */
function concatGradients({ node, build, dy, xShape, yShape }: GradientContext): string {
  const axis = axisOf(node, intAttribute(node, 'axis', 0), xShape(0).length);
  const parts = node.outputs.map(
    (_, i) => dy[i] ?? build.op('Expand', [build.scalar(0), build.ints(yShape(i))]),
  );
  return parts.length === 1 ? parts[0]! : build.op('Concat', parts, { axis });
}

/** ⌈size / count⌉ each, the last one what remains. */
function equalParts(size: number, count: number): number[] {
  const part = Math.ceil(size / count);
  return Array.from({ length: count }, (_, i) => Math.max(0, Math.min(part, size - i * part)));
}

/**
 * Each part keeps its range of labels. Stated sizes follow; equal parts must stay equal, so they lose the same; where
 * the last of unstated parts is smaller, the sizes are stated from then on.
 */
function coupleSplit(context: CouplingContext): void {
  const { node, opset } = context;
  const labels = context.labels(0);
  if (labels === undefined) return;
  const axis = axisOf(node, intAttribute(node, 'axis', 0), labels.shape.length);
  const axes = labelledAxes(labels);
  if (axes.length > 0 && !axes.includes(axis)) {
    for (const output of node.outputs.keys()) context.produce(output, labels);
    return;
  }
  const size = labels.shape[axis]!;
  const isStated = opset < 13 ? node.attributes.has('split') : Boolean(node.inputs[1]);
  const target = context.constant(1);
  const sizes = !isStated
    ? equalParts(size, node.outputs.length)
    : opset < 13
      ? intsAttribute(node, 'split')
      : target && context.isParameter(1)
        ? numbersOf(target)
        : undefined;
  const isEqual = !isStated && size % node.outputs.length === 0;
  if (sizes === undefined || axes.length !== 1) {
    context.freeze(labels.data, 'is split in a way that cannot be rewritten');
    return;
  }
  let offset = 0;
  const parts = sizes.map((count) => {
    const part = sliceLabels(labels, axis, offset, offset + count);
    offset += count;
    return part;
  });
  for (const [output, part] of parts.entries()) {
    context.produce(output, part);
    if (isEqual && output > 0) uniteLabels(context, parts[0]!, part);
  }
  if (isEqual) return;
  context.rewrite((pruned) => {
    const kept = parts.map((part) => pruned.kept(part.data));
    return opset < 13
      ? { attributes: new Map([...node.attributes, ['split', { kind: 'ints', value: kept.map(BigInt) }]]) }
      : {
          attributes: new Map([...node.attributes].filter(([name]) => name !== 'num_outputs')),
          constants: new Map([[1, int64Tensor(kept)]]),
        };
  });
}
