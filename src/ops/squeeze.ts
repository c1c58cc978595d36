import { numbersOf } from '../base/tensor.ts';
import { intsAttribute } from '../graph/attributes.ts';
import type { Node } from '../graph/model.ts';
import { axisOf, requiredType } from './dims.ts';
import { ShapeError } from './errors.ts';
import { defineOp } from './op.ts';
import { elementsAt, integersAt } from './partial.ts';
import { coupleReshape } from './reshape.ts';

/** Drops axes of size 1: those named (attribute before opset 13, input since), or all. */
export const Squeeze = defineOp({
  schema: { name: 'Squeeze', since: [1, 11, 13, 21], inputs: [1, 2], outputs: [1, 1] },
  shape: (context) => {
    const { node, opset, inputs } = context;
    const { dtype, shape } = requiredType(node, inputs, 0);
    const named = hasAxes(node, opset);
    const axes = opset < 13 ? intsAttribute(node, 'axes') : named ? integersAt(context, 1) : undefined;
    if (shape === undefined || (named && axes === undefined)) return [{ dtype }];
    if (axes === undefined) {
      // Whether an unnamed size happens to be 1 decides the rank: nothing is known then.
      if (!shape.every((size) => typeof size === 'number')) return [{ dtype }];
      return [{ dtype, shape: shape.filter((size) => size !== 1) }];
    }
    const dropped = new Set(axes.map((axis) => axisOf(node, axis, shape.length)));
    for (const axis of dropped) {
      const size = shape[axis];
      if (typeof size === 'number' && size !== 1)
        throw new ShapeError(node, 0, `has size ${size} on axis ${axis}, not 1`);
    }
    return [{ dtype, shape: shape.filter((_, axis) => !dropped.has(axis)) }];
  },
  gradient: ({ build, dy, needs, xShape }) => [
    needs(0) ? build.op('Reshape', [dy[0], build.ints(xShape(0))]) : undefined,
  ],
  training: ({ node, opset, build, x, xShape }) => {
    const axes = intsAttribute(node, 'axes');
    build.op(
      'Squeeze',
      opset < 13
        ? [x(0), axes && build.ints(axes.map((axis) => axisOf(node, axis, xShape(0).length)))]
        : node.inputs.map((_, input) => x(input)),
      {},
      { outputs: [node.outputs[0]!], name: node.name },
    );
  },
  coupling: (context) => {
    coupleReshape(context);
  },
  fold: (context) => {
    const x = context.constant(0) ?? elementsAt(context, 0);
    if (x === undefined) return undefined;
    const axes =
      context.opset < 13
        ? intsAttribute(context.node, 'axes')
        : context.constant(1) && numbersOf(context.constant(1)!);
    if (hasAxes(context.node, context.opset) && axes === undefined) return undefined;
    const dropped = new Set(axes?.map((axis) => axisOf(context.node, axis, x.shape.length)));
    return {
      ...x,
      shape: x.shape.filter((size, axis) => (axes === undefined ? size !== 1 : !dropped.has(axis))),
    };
  },
});

function hasAxes(node: Node, opset: number): boolean {
  return opset < 13 ? node.attributes.has('axes') : Boolean(node.inputs[1]);
}
