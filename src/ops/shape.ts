import { numbersOf } from '../base/tensor.ts';
import { intAttribute } from '../graph/attributes.ts';
import type { Node, Shape as ShapeOf } from '../graph/model.ts';
import { requiredType } from './dims.ts';
import { labelledAxes } from './label-tensor.ts';
import { type CouplingContext, defineOp } from './op.ts';

/**
 * The sizes of a value as an int64 vector (of the axes `start` to `end` since opset 15). A graph that computes with its
 * own channel counts keeps them, unless the counts fold to constants first; that it asks for other sizes is no matter.
 */
export const Shape = defineOp({
  schema: { name: 'Shape', since: [1, 13, 15, 19, 21], inputs: [1, 1], outputs: [1, 1] },
  shape: ({ node, inputs }) => {
    const { shape } = requiredType(node, inputs, 0);
    return [{ dtype: 'int64', shape: [shape === undefined ? null : part(node, shape).length] }];
  },
  fold: ({ node, inputs }) => {
    const shape = inputs[0]?.shape;
    if (shape === undefined) return undefined;
    const elements = part(node, shape);
    return { dtype: 'int64', shape: [elements.length], elements };
  },
  coupling: (context) => {
    const labels = context.labels(0);
    if (labels === undefined) return;
    const axes = labelledAxes(labels);
    const read = axes.length === 0 ? undefined : axesRead(context, labels.shape.length);
    if (read === undefined || axes.some((axis) => read.has(axis)))
      context.freeze(labels.data, 'are counted by a Shape that the graph computes with');
  },
});

/** The axes whose sizes are read on from a Shape by constant indices; undefined: that is not known of all. */
function axesRead(context: CouplingContext, rank: number): ReadonlySet<number> | undefined {
  const { node } = context;
  const all = Array.from({ length: rank }, (_, axis) => axis);
  const axes = all.slice(intAttribute(node, 'start', 0), intAttribute(node, 'end', rank));
  const read = new Set<number>();
  const { nodes, isExposed } = context.readers(node.outputs[0]!);
  if (isExposed) return undefined;
  for (const reader of nodes) {
    const indices = context.constantNamed(reader.inputs[1] ?? '');
    const isPick = reader.opType === 'Gather' && reader.domain === '' && reader.inputs[1] !== node.outputs[0];
    if (!isPick || indices === undefined) return undefined;
    for (const index of numbersOf(indices)) read.add(axes.at(index) ?? rank);
  }
  return read;
}

/** Array slices clamp and count from the end as the operator's definition does. */
function part(node: Node, shape: ShapeOf): ShapeOf {
  return shape.slice(intAttribute(node, 'start', 0), intAttribute(node, 'end', shape.length));
}
