import { coupleBroadcast } from './broadcast.ts';
import { broadcastShapes, requiredType } from './dims.ts';
import { reduceTo } from './emit.ts';
import { ShapeError } from './errors.ts';
import { foldElementWise } from './fold-element-wise.ts';
import { defineOp } from './op.ts';

/** x where the condition holds, else y; all three broadcast. */
export const Where = defineOp({
  schema: { name: 'Where', since: [9, 16], inputs: [3, 3], outputs: [1, 1] },
  shape: ({ node, inputs }) => {
    const [condition, x, y] = [0, 1, 2].map((input) => requiredType(node, inputs, input));
    if (condition!.dtype !== 'bool') throw new ShapeError(node, 0, `is ${condition!.dtype}, not bool`);
    if (x!.dtype !== y!.dtype) throw new ShapeError(node, 2, `is ${y!.dtype}, input 1 is ${x!.dtype}`);
    return [{ dtype: x!.dtype, shape: broadcastShapes(node, [condition!.shape, x!.shape, y!.shape]) }];
  },
  gradient: ({ build, dy, needs, x, xShape, yShape }) => {
    const zero = build.scalar(0);
    const part = (input: number) => {
      if (!needs(input) || dy[0] === undefined) return undefined;
      const chosen = input === 1 ? [x(0), dy[0], zero] : [x(0), zero, dy[0]];
      return reduceTo(build, build.op('Where', chosen), yShape(0), xShape(input));
    };
    return [undefined, part(1), part(2)];
  },
  coupling: coupleBroadcast,
  fold: (context) =>
    foldElementWise(
      context,
      // Without the condition the result is known only where both are the same.
      (condition, x, y) => (typeof condition === 'number' ? (condition !== 0 ? x : y) : x === y ? x : null),
      context.inputs[1]?.dtype,
    ),
});
