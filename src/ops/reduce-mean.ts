import { elementCount, numbersOf, type Tensor } from '../base/tensor.ts';
import { intAttribute, intsAttribute } from '../graph/attributes.ts';
import type { Dim, Node } from '../graph/model.ts';
import { expand, reshape } from './emit.ts';
import { MissingRuleError, ShapeError } from './errors.ts';
import { isNormalisation } from './normalised.ts';
import { defineOp, type TrainingContext } from './op.ts';

/** The mean over some axes (an attribute before opset 18, an input since), which stay with size 1 if `keepdims`. */
export const ReduceMean = defineOp({
  schema: { name: 'ReduceMean', since: [1, 11, 13, 18], inputs: [1, 2], outputs: [1, 1] },
  shape({ node, inputs: [x], constant }) {
    const dtype = x?.dtype ?? 'float32';
    if (x?.shape === undefined) return [{ dtype }];
    const { shape } = x;
    const axes = reducedAxes(node, shape.length, constant(1));
    if (axes === undefined) return [{ dtype }];
    if (axes.some((axis) => axis < 0 || axis >= shape.length)) {
      throw new ShapeError(node, 0, `has rank ${shape.length}, too few for the axes to reduce`);
    }
    return [{ dtype, shape: reduced(shape, axes, keepsAxes(node)) as Dim[] }];
  },
  gradient(context) {
    const {
      build,
      node,
      dy: [dy],
    } = context;
    if (dy === undefined || !context.needs(0)) return [];
    const shape = context.xShape(0);
    const axes = reducedAxes(node, shape.length, context.constant(1)) ?? [];
    const kept = shape.map((size, axis) => (axes.includes(axis) ? 1 : size));
    const aligned = keepsAxes(node) ? dy : reshape(build, dy, kept);
    const count = elementCount(axes.map((axis) => shape[axis]!));
    return [expand(build, build.op('Mul', [aligned, build.scalar(1 / count)]), shape)];
  },
  training: (context) => writeReduction('ReduceMean', context),
  coupling(context) {
    const { node } = context;
    const labels = context.labels(0);
    if (labels === undefined) return;
    const axes = reducedAxes(node, labels.shape.length, context.constant(1));
    if (axes?.every((axis) => labels.shape[axis] === 1)) {
      context.produce(0, { shape: reduced(labels.shape, axes, keepsAxes(node)), data: labels.data });
    } else if (keepsAxes(node) && isNormalisation(context)) {
      context.inexact(labels.data, 'ReduceMean normalises over these channels');
    } else context.freeze(labels.data, 'ReduceMean averages over these channels');
  },
});

/** In a training graph (opset 17) reductions but ReduceSum name their axes by an attribute; since opset 18 it is an input. */
export function writeReduction(opType: string, context: TrainingContext): void {
  const { node, opset, build, x, xShape, constant } = context;
  const axes = opset < 18 ? intsAttribute(node, 'axes') : reducedAxes(node, xShape(0).length, constant(1));
  if (opset >= 18 && axes === undefined) throw new MissingRuleError(node, 'gradient');
  const outputs = { outputs: [node.outputs[0]!], name: node.name };
  if (opset >= 18 && axes?.length === 0) build.op('Identity', [x(0)], {}, outputs);
  else build.op(opType, [x(0)], { axes, keepdims: keepsAxes(node) ? 1 : 0 }, outputs);
}

export function keepsAxes(node: Node): boolean {
  return intAttribute(node, 'keepdims', 1) !== 0;
}

/** Undefined where the axes are computed at run time. No axes at all mean every axis, or none at all by the flag. */
export function reducedAxes(
  node: Node,
  rank: number,
  input: Tensor | undefined,
): readonly number[] | undefined {
  const dynamic = (node.inputs[1] ?? '') !== '';
  if (dynamic && input === undefined) return undefined;
  const given = dynamic && input !== undefined ? numbersOf(input) : intsAttribute(node, 'axes', []);
  if (given.length > 0) return given.map((axis) => (axis < 0 ? axis + rank : axis));
  if (intAttribute(node, 'noop_with_empty_axes', 0) !== 0) return [];
  return Array.from({ length: rank }, (_, axis) => axis);
}

export function reduced<D extends Dim>(
  shape: readonly D[],
  axes: readonly number[],
  keep: boolean,
): (D | 1)[] {
  return shape.flatMap((size, axis): (D | 1)[] => (axes.includes(axis) ? (keep ? [1] : []) : [size]));
}
