import type { ValueType } from '../graph/model.ts';
import { coupleBroadcast } from './broadcast.ts';
import { broadcastShapes, requiredType } from './dims.ts';
import { reduceTo } from './emit.ts';
import { ShapeError } from './errors.ts';
import { defineOp, type GradientContext, type ShapeContext } from './op.ts';
import { elementsAt, MAX_FOLDED_ELEMENTS, type PartialTensor } from './partial.ts';

/*
 * Binary element-wise operators, one row each. Gradients are with respect to the broadcast operands a and b and are
 * summed back to the operands' own shapes.
 */

export const Add = arithmetic('Add', {
  da: ({ dy }) => dy[0]!,
  db: ({ dy }) => dy[0]!,
  fold: (a, b) => a + b,
});

export const Sub = arithmetic('Sub', {
  da: ({ dy }) => dy[0]!,
  db: ({ build, dy }) => build.op('Neg', [dy[0]!]),
  fold: (a, b) => a - b,
});

export const Mul = arithmetic('Mul', {
  da: ({ build, dy, x }) => build.op('Mul', [dy[0]!, x(1)]),
  db: ({ build, dy, x }) => build.op('Mul', [dy[0]!, x(0)]),
  fold: (a, b) => a * b,
});

/** d(a/b)/db = -a/b² = -y/b. Integers divide towards zero, as in ONNX Runtime. */
export const Div = arithmetic('Div', {
  da: ({ build, dy, x }) => build.op('Div', [dy[0]!, x(1)]),
  db: ({ build, dy, x, y }) => build.op('Neg', [build.op('Div', [build.op('Mul', [dy[0]!, y(0)]), x(1)])]),
  fold: (a, b, isInteger) => (isInteger ? (b === 0 ? undefined : Math.trunc(a / b)) : a / b),
});

interface Row {
  readonly da: (context: GradientContext) => string;
  readonly db: (context: GradientContext) => string;
  readonly fold: (a: number, b: number, isInteger: boolean) => number | undefined;
}

function arithmetic<const Name extends string>(name: Name, row: Row) {
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
    fold: (context) => foldBinary(context, row.fold, name),
  });
}

function binaryShape({ node, inputs }: ShapeContext): ValueType[] {
  const a = requiredType(node, inputs, 0);
  const b = requiredType(node, inputs, 1);
  if (a.dtype !== b.dtype) throw new ShapeError(node, 1, `is ${b.dtype}, input 0 is ${a.dtype}`);
  return [{ dtype: a.dtype, shape: broadcastShapes(node, [a.shape, b.shape]) }];
}

/** Element by element on scalars and vectors, which is what shape arithmetic is made of. */
function foldBinary(context: ShapeContext, compute: Row['fold'], name: string): PartialTensor | undefined {
  const a = elementsAt(context, 0);
  const b = elementsAt(context, 1);
  if (a === undefined || b === undefined) return undefined;
  const shape = broadcastShapes(context.node, [a.shape, b.shape]) as readonly number[]; // Both are numbers throughout.
  if (shape.length > 1) return undefined;
  const count = shape[0] ?? 1;
  if (count > MAX_FOLDED_ELEMENTS) return undefined;
  const isInteger = !a.dtype.startsWith('float');
  const round = a.dtype === 'float32' ? Math.fround : (value: number) => value;
  const neutral = name === 'Mul' || name === 'Div' ? 1 : 0;
  const elements = Array.from({ length: count }, (_, i) => {
    const left = a.elements[a.elements.length === 1 ? 0 : i]!;
    const right = b.elements[b.elements.length === 1 ? 0 : i]!;
    if (typeof left === 'number' && typeof right === 'number') {
      const value = compute(left, right, isInteger);
      return value === undefined ? null : round(value);
    }
    // A named size survives only what leaves it alone: N · 1, N + 0, N / 1.
    return typeof left === 'string' && right === neutral ? left : null;
  });
  return { dtype: a.dtype, shape, elements };
}
