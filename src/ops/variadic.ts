import type { Dim } from '../graph/model.ts';
import { coupleBroadcast } from './broadcast.ts';
import { broadcastShapes, requiredType } from './dims.ts';
import { reduceTo } from './emit.ts';
import { ShapeError } from './errors.ts';
import { foldVariadic } from './fold-element-wise.ts';
import { defineOp, type GradientContext } from './op.ts';

/*
 * Element-wise operators of any number of broadcasting inputs, one row each: the gradient of one input before it is
 * summed back to that input's shape, and the function of two numbers that the others follow from.
 */

/** The gradient goes to the inputs that are the maximum; to all of them where several are. */
export const Max = variadic('Max', [1, 6, 8, 12, 13], isResult, Math.max);

export const Min = variadic('Min', [1, 6, 8, 12, 13], isResult, Math.min);

export const Sum = variadic(
  'Sum',
  [1, 6, 8, 13],
  ({ dy }) => dy[0]!,
  (a, b) => a + b,
);

export const Mean = variadic('Mean', [1, 6, 8, 13], ({ build, dy, node }) =>
  build.op('Mul', [dy[0]!, build.scalar(1 / node.inputs.length)]),
);

function isResult({ build, dy, x, y }: GradientContext, input: number): string {
  return build.op('Where', [build.op('Equal', [x(input), y(0)]), dy[0]!, build.scalar(0)]);
}

function variadic<const Name extends string>(
  name: Name,
  since: readonly number[],
  dx: (context: GradientContext, input: number) => string,
  fold?: (a: number, b: number) => number,
) {
  return defineOp({
    schema: { name, since, inputs: [1, Number.POSITIVE_INFINITY], outputs: [1, 1] },
    shape: ({ node, inputs }) => {
      const types = node.inputs.map((_, input) => requiredType(node, inputs, input));
      const { dtype } = types[0]!;
      const other = types.findIndex((type) => type.dtype !== dtype);
      if (other > 0) throw new ShapeError(node, other, `is ${types[other]!.dtype}, input 0 is ${dtype}`);
      const shape = broadcastShapes(
        node,
        types.map((type) => type.shape),
      );
      return [{ dtype, shape }];
    },
    gradient: (context) => {
      const { build, dy, node, needs, xShape, yShape } = context;
      return node.inputs.map((_, input) =>
        needs(input) && dy[0] !== undefined
          ? reduceTo(build, dx(context, input), yShape(0), xShape(input))
          : undefined,
      );
    },
    coupling: coupleBroadcast,
    ...(fold !== undefined && {
      fold: (context: Parameters<typeof foldVariadic>[0]) =>
        foldVariadic(context, (a: Dim, b: Dim) =>
          typeof a === 'number' && typeof b === 'number' ? fold(a, b) : null,
        ),
    }),
  });
}
