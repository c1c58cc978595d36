import { intAttribute } from '../graph/attributes.ts';
import { coupleBroadcast } from './broadcast.ts';
import { broadcastShapes, requiredType } from './dims.ts';
import { ShapeError } from './errors.ts';
import { foldElementWise } from './fold-element-wise.ts';
import { defineOp } from './op.ts';

/** What remains of a division: with the sign of the divisor, or with that of the dividend where `fmod` is set. */
export const Mod = defineOp({
  schema: { name: 'Mod', since: [10, 13], inputs: [2, 2], outputs: [1, 1] },
  shape: ({ node, inputs }) => {
    const [a, b] = [requiredType(node, inputs, 0), requiredType(node, inputs, 1)];
    if (a.dtype !== b.dtype) throw new ShapeError(node, 1, `is ${b.dtype}, input 0 is ${a.dtype}`);
    return [{ dtype: a.dtype, shape: broadcastShapes(node, [a.shape, b.shape]) }];
  },
  coupling: coupleBroadcast,
  fold: (context) => {
    const truncates = intAttribute(context.node, 'fmod', 0) !== 0;
    return foldElementWise(context, (a, b) => {
      if (typeof a !== 'number' || typeof b !== 'number' || b === 0) return null;
      const rest = a % b;
      // The addition turns -0, which JavaScript makes of -4 % 2, into 0.
      return truncates || rest === 0 || Math.sign(rest) === Math.sign(b) ? rest + 0 : rest + b;
    });
  },
});
