import { coupleBroadcast } from './broadcast.ts';
import { broadcastShapes, requiredType } from './dims.ts';
import { reduceTo } from './emit.ts';
import { foldElementWise } from './fold-element-wise.ts';
import { defineOp } from './op.ts';

/** aᵇ, in the dtype of the base. */
export const Pow = defineOp({
  schema: { name: 'Pow', since: [1, 7, 12, 13, 15], inputs: [2, 2], outputs: [1, 1] },
  shape: ({ node, inputs }) => {
    const base = requiredType(node, inputs, 0);
    const exponent = requiredType(node, inputs, 1);
    return [{ dtype: base.dtype, shape: broadcastShapes(node, [base.shape, exponent.shape]) }];
  },
  // d/da = b·aᵇ⁻¹, d/db = aᵇ·ln a, which is defined for positive bases alone.
  gradient: ({ build, dy, needs, x, y, xShape, yShape }) => {
    if (dy[0] === undefined) return [];
    const da = () => {
      const exponent = build.op('Cast', [x(1)], { to: FLOAT }); // It may be an integer.
      const less = build.op('Sub', [exponent, build.scalar(1)]);
      return build.op('Mul', [dy[0], build.op('Mul', [exponent, build.op('Pow', [x(0), less])])]);
    };
    const db = () => build.op('Mul', [dy[0], build.op('Mul', [y(0), build.op('Log', [x(0)])])]);
    return [
      needs(0) ? reduceTo(build, da(), yShape(0), xShape(0)) : undefined,
      needs(1) ? reduceTo(build, db(), yShape(0), xShape(1)) : undefined,
    ];
  },
  coupling: coupleBroadcast,
  fold: (context) =>
    foldElementWise(context, (a, b) => {
      if (typeof a !== 'number' || typeof b !== 'number') return b === 1 ? a : null;
      return a ** b;
    }),
});

/** The number of float32 in ONNX's list of types, as Cast wants it. */
const FLOAT = 1;
