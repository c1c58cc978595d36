import { numbersOf, type Tensor } from '../base/tensor.ts';
import { intAttribute, intsAttribute } from '../graph/attributes.ts';
import type { Dim, Node } from '../graph/model.ts';
import { MissingRuleError } from './errors.ts';
import type { TrainingContext } from './op.ts';

/** In a training graph (opset 17) reductions but ReduceSum name their axes by an attribute; since opset 18 it is an input. */
export function writeReduction(opType: string, context: TrainingContext): void {
  const { node, opset, build, x, xShape, constant } = context;
  const axes = opset < 18 ? intsAttribute(node, 'axes') : reducedAxes(node, xShape(0).length, constant(1));
  if (opset >= 18 && axes === undefined) throw new MissingRuleError(node, 'for axes that are computed');
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
