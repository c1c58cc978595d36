import { elementCount, float32Tensor, floatsOf, type Tensor } from '../base/tensor.ts';
import type { Dim, Node, Shape } from '../graph/model.ts';
import { coupleContraction } from './contraction.ts';
import { knownShape } from './dims.ts';
import { matMulTransposed, reduceTo, reshape } from './emit.ts';
import { ShapeError } from './errors.ts';
import { defineOp, type ShapeContext } from './op.ts';

/** Matrix product over the last two axes, broadcast over the others; vectors count as a row (left) or column (right). */
export const MatMul = defineOp({
  schema: { name: 'MatMul', since: [1, 9, 13], inputs: [2, 2], outputs: [1, 1] },
  shape({ node, inputs: [a, b] }) {
    const dtype = a?.dtype ?? b?.dtype ?? 'float32';
    if (a?.shape === undefined || b?.shape === undefined) return [{ dtype }];
    return [{ dtype, shape: productShape(node, a.shape, b.shape) }];
  },
  gradient(context) {
    const {
      build,
      dy: [dy],
    } = context;
    if (dy === undefined) return [];
    const [aShape, bShape] = [context.xShape(0), context.xShape(1)];
    // Vectors become matrices, and so does the gradient that arrives.
    const left = aShape.length === 1 ? [1, ...aShape] : aShape;
    const right = bShape.length === 1 ? [...bShape, 1] : bShape;
    const batch = context
      .yShape(0)
      .slice(0, context.yShape(0).length - (aShape.length > 1 ? 1 : 0) - (bShape.length > 1 ? 1 : 0));
    const outShape = [...batch, left.at(-2)!, right.at(-1)!];
    const as = (value: string, from: readonly number[], to: readonly number[]) =>
      from.length === to.length ? value : reshape(build, value, to);
    const a = as(context.x(0), aShape, left);
    const b = as(context.x(1), bShape, right);
    const g = as(dy, context.yShape(0), outShape);
    const dA = () => {
      const full = matMulTransposed(build, g, b);
      return as(reduceTo(build, full, [...batch, ...left.slice(-2)], left), left, aShape);
    };
    const dB = () => {
      if (right.length === 2) {
        // A weight: all rows of the batch at once instead of one product per matrix and a sum.
        const rows = elementCount(left.slice(0, -1));
        const flatA = reshape(build, a, [rows, left.at(-1)!]);
        const flatG = reshape(build, g, [rows, right.at(-1)!]);
        return as(build.op('Gemm', [flatA, flatG], { transA: 1 }), right, bShape);
      }
      const full = build.op('FusedMatMul', [a, g], { transA: 1 }, { domain: 'com.microsoft' });
      return as(reduceTo(build, full, [...batch, ...right.slice(-2)], right), right, bShape);
    };
    return [context.needs(0) ? dA() : undefined, context.needs(1) ? dB() : undefined];
  },
  coupling: coupleContraction,
  fold: productOfStored,
  cost({ inputs: [a], outputs: [y] }) {
    return { macs: elementCount(y!) * (a?.at(-1) ?? 0) };
  },
});

/**
 * The product of stored values and a stored matrix or vector (the norm of a spectrally normalised weight, queries that are
 * learnt), summed in float64. Larger ones, and batches of matrices, are left to the engine.
 */
function productOfStored({ node, constant }: ShapeContext): Tensor | undefined {
  const [a, b] = [constant(0), constant(1)];
  if (a?.dtype !== 'float32' || b?.dtype !== 'float32') return undefined;
  if (a.shape.length === 0 || b.shape.length === 0 || b.shape.length > 2) return undefined;
  const inner = a.shape.at(-1)!;
  const [rows, columns] = [elementCount(a.shape) / inner, elementCount(b.shape) / inner];
  if (!(rows * inner * columns <= MAX_FOLDED_MACS)) return undefined;
  const shape = knownShape(productShape(node, a.shape, b.shape))!; // Of known shapes.
  const [left, right, product] = [floatsOf(a), floatsOf(b), new Float32Array(rows * columns)];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      let sum = 0;
      for (let i = 0; i < inner; i++) sum += left[row * inner + i]! * right[i * columns + column]!;
      product[row * columns + column] = sum;
    }
  }
  return float32Tensor(shape, product);
}

/** A tenth of a second here: a matrix of any common kernel by a vector, and small matrices by each other. */
const MAX_FOLDED_MACS = 2 ** 26;

function productShape(node: Node, a: Shape, b: Shape): Dim[] {
  for (const [i, shape] of [a, b].entries()) {
    if (shape.length === 0) throw new ShapeError(node, i, 'is a scalar, expected a vector or matrices');
  }
  const inner = [a.at(-1), b.length === 1 ? b[0] : b.at(-2)];
  if (typeof inner[0] === 'number' && typeof inner[1] === 'number' && inner[0] !== inner[1]) {
    throw new ShapeError(node, 0, `has inner size ${inner[0]}, input 1 has ${inner[1]}`);
  }
  const [leadA, leadB] = [a.slice(0, -2), b.slice(0, -2)];
  const rank = Math.max(leadA.length, leadB.length);
  const lead = Array.from({ length: rank }, (_, i): Dim => {
    const p = leadA[i - rank + leadA.length] ?? (i < rank - leadA.length ? 1 : null);
    const q = leadB[i - rank + leadB.length] ?? (i < rank - leadB.length ? 1 : null);
    if (p === q || q === 1) return p;
    if (p === 1) return q;
    if (typeof p === 'number' && typeof q === 'number') {
      throw new ShapeError(
        node,
        1,
        `has batch axes [${leadB.join(', ')}], input 0 has [${leadA.join(', ')}]`,
      );
    }
    // One is known and larger than 1: the other must be it (or 1).
    return typeof p === 'number' ? p : typeof q === 'number' ? q : null;
  });
  return [...lead, ...(a.length > 1 ? [a.at(-2)!] : []), ...(b.length > 1 ? [b.at(-1)!] : [])];
}
