import { coupleBroadcast } from './broadcast.ts';
import { broadcastShapes, requiredType } from './dims.ts';
import { reduceTo } from './emit.ts';
import { defineOp } from './op.ts';

/** x above zero, slope · x below; the slope broadcasts to x ([C, 1, 1] gives each channel its own). */
export const PRelu = defineOp({
  schema: { name: 'PRelu', since: [1, 6, 7, 9, 16], inputs: [2, 2], outputs: [1, 1] },
  shape: ({ node, inputs }) => {
    const x = requiredType(node, inputs, 0);
    const slope = requiredType(node, inputs, 1);
    return [{ dtype: x.dtype, shape: broadcastShapes(node, [x.shape, slope.shape]) }];
  },
  gradient: (context) => {
    const { build, dy, x, needs, xShape, yShape } = context;
    const zero = build.scalar(0);
    const dx = () => {
      const isPositive = build.op('Greater', [x(0), zero]);
      return build.op('Where', [isPositive, dy[0], build.op('Mul', [dy[0], x(1)])]);
    };
    const dslope = () => build.op('Mul', [dy[0], build.op('Min', [x(0), zero])]);
    return [
      needs(0) ? dx() : undefined,
      needs(1) ? reduceTo(context.build, dslope(), yShape(0), xShape(1)) : undefined,
    ];
  },
  coupling: coupleBroadcast,
});
