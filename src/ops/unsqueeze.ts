import { intsAttribute } from '../graph/attributes.ts';
import type { Dim, Node, Shape } from '../graph/model.ts';
import { axisOf, requiredType } from './dims.ts';
import { defineOp, type ShapeContext } from './op.ts';
import { elementsAt, integersAt } from './partial.ts';
import { coupleReshape } from './reshape.ts';

/** Inserts axes of size 1; the axes (attribute before opset 13, input since) are counted in the output. */
export const Unsqueeze = defineOp({
  schema: { name: 'Unsqueeze', since: [1, 11, 13, 21], inputs: [1, 2], outputs: [1, 1] },
  shape: (context) => {
    const { dtype, shape } = requiredType(context.node, context.inputs, 0);
    const axes = axesOf(context);
    if (shape === undefined || axes === undefined) return [{ dtype }];
    return [{ dtype, shape: unsqueezed(context.node, shape, axes) }];
  },
  gradient: ({ build, dy, needs, xShape }) => [
    needs(0) ? build.op('Reshape', [dy[0], build.ints(xShape(0))]) : undefined,
  ],
  training: ({ node, opset, build, x }) => {
    const axes = opset < 13 ? build.ints(intsAttribute(node, 'axes', [])) : x(1);
    build.op('Unsqueeze', [x(0), axes], {}, { outputs: [node.outputs[0]!], name: node.name });
  },
  coupling: (context) => {
    coupleReshape(context);
  },
  fold: (context) => {
    const x = context.constant(0) ?? elementsAt(context, 0);
    const axes = axesOf(context);
    if (x === undefined || axes === undefined) return undefined;
    return { ...x, shape: unsqueezed(context.node, x.shape, axes) };
  },
});

function axesOf(context: ShapeContext): readonly number[] | undefined {
  return context.opset < 13 ? intsAttribute(context.node, 'axes') : integersAt(context, 1);
}

function unsqueezed<D extends Dim>(node: Node, shape: readonly D[], axes: readonly number[]): (D | 1)[];
function unsqueezed(node: Node, shape: Shape, axes: readonly number[]): Dim[] {
  const rank = shape.length + axes.length;
  const added = new Set(axes.map((axis) => axisOf(node, axis, rank, 1)));
  const rest = [...shape];
  return Array.from({ length: rank }, (_, axis) => (added.has(axis) ? 1 : rest.shift()!));
}
