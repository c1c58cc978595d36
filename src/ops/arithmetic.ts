import type { Dim, ValueType } from '../graph/model.ts';
import { coupleBroadcast } from './broadcast.ts';
import { broadcastShapes, dividedDim, mergedDim, requiredType } from './dims.ts';
import { reduceTo } from './emit.ts';
import { ShapeError } from './errors.ts';
import { type ElementFunction, foldElementWise } from './fold-element-wise.ts';
import { defineOp, type GradientContext, type ShapeContext } from './op.ts';

/*
 * Binary element-wise operators, one row each. Gradients are with respect to the broadcast operands a and b and are
 * summed back to the operands' own shapes.
 */

export const Add = arithmetic('Add', {
  da: ({ dy }) => dy[0]!,
  db: ({ dy }) => dy[0]!,
  fold: (a, b) => a + b,
  sizes: (a, b) => (b === 0 ? a : a === 0 ? b : null),
});

export const Sub = arithmetic('Sub', {
  da: ({ dy }) => dy[0]!,
  db: ({ build, dy }) => build.op('Neg', [dy[0]!]),
  fold: (a, b) => a - b,
  sizes: (a, b) => (b === 0 ? a : null),
});

export const Mul = arithmetic('Mul', {
  da: ({ build, dy, x }) => build.op('Mul', [dy[0]!, x(1)]),
  db: ({ build, dy, x }) => build.op('Mul', [dy[0]!, x(0)]),
  fold: (a, b) => a * b,
  sizes: (a, b) => (isFactor(a) && isFactor(b) ? mergedDim([a, b]) : null),
});

/** d(a/b)/db = -a/b² = -y/b. Integers divide towards zero, as in ONNX Runtime. */
export const Div = arithmetic('Div', {
  da: ({ build, dy, x }) => build.op('Div', [dy[0]!, x(1)]),
  db: ({ build, dy, x, y }) => build.op('Neg', [build.op('Div', [build.op('Mul', [dy[0]!, y(0)]), x(1)])]),
  fold: (a, b, isInteger) => (isInteger ? (b === 0 ? undefined : Math.trunc(a / b)) : a / b),
  sizes: (a, b) => (isFactor(a) && isFactor(b) ? dividedDim(a, b) : null),
});

/** Products of sizes are kept for whole factors alone: what 0.5 · N is after rounding depends on N. */
function isFactor(size: Dim): boolean {
  return typeof size !== 'number' || (Number.isSafeInteger(size) && size >= 0);
}

interface Row {
  readonly da: (context: GradientContext) => string;
  readonly db: (context: GradientContext) => string;
  readonly fold: (a: number, b: number, isInteger: boolean) => number | undefined;
  /** The same where at least one side is a size that has only a name, or a product with one: N · 1, N + 0, '8·N' / 8. */
  readonly sizes: (a: Dim, b: Dim) => Dim;
}

function arithmetic<const Name extends string>(name: Name, row: Row) {
  const compute = namesThrough(row);
  return defineOp({
    schema: { name, since: [1, 6, 7, 13, 14], inputs: [2, 2], outputs: [1, 1] },
    shape: binaryShape,
    gradient: (context) => {
      const from = context.yShape(0);
      return [
        context.needs(0) ? reduceTo(context.build, row.da(context), from, context.xShape(0)) : undefined,
        context.needs(1) ? reduceTo(context.build, row.db(context), from, context.xShape(1)) : undefined,
      ];
    },
    coupling: coupleBroadcast,
    fold: (context) => foldElementWise(context, compute),
  });
}

function binaryShape({ node, inputs }: ShapeContext): ValueType[] {
  const a = requiredType(node, inputs, 0);
  const b = requiredType(node, inputs, 1);
  if (a.dtype !== b.dtype) throw new ShapeError(node, 1, `is ${b.dtype}, input 0 is ${a.dtype}`);
  return [{ dtype: a.dtype, shape: broadcastShapes(node, [a.shape, b.shape]) }];
}

function namesThrough({ fold, sizes }: Row): ElementFunction {
  return (a, b, _, isInteger) => {
    if (typeof a === 'number' && typeof b === 'number') return fold(a, b, isInteger) ?? null;
    return a === null || b === null ? null : sizes(a, b);
  };
}
