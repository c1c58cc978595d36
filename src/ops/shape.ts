import { intAttribute } from '../graph/attributes.ts';
import type { Node, Shape as ShapeOf } from '../graph/model.ts';
import { requiredType } from './dims.ts';
import { defineOp } from './op.ts';

/**
 * The sizes of a value as an int64 vector (of the axes `start` to `end` since opset 15). It has no coupling: a graph
 * that computes with its own channel counts keeps them, unless the counts fold to constants first.
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
});

/** Array slices clamp and count from the end as the operator's definition does. */
function part(node: Node, shape: ShapeOf): ShapeOf {
  return shape.slice(intAttribute(node, 'start', 0), intAttribute(node, 'end', shape.length));
}
