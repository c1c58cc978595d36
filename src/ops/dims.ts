import type { Dim, Node, Shape, ValueType } from '../graph/model.ts';
import { ShapeError } from './errors.ts';

/**
 * The shape that operands of the given shapes broadcast to, right-aligned: [N, C, H, W] with [C, 1, 1] gives
 * [N, C, H, W]. A named size against a number above 1 can only be that number (or 1), so the number wins.
 * @returns undefined where the rank of an operand is unknown
 * @throws ShapeError naming the first input that does not fit the ones before it
 */
export function broadcastShapes(node: Node, shapes: readonly (Shape | undefined)[]): Shape | undefined {
  let result: Dim[] = [];
  for (const [input, shape] of shapes.entries()) {
    if (shape === undefined) return undefined;
    const rank = Math.max(result.length, shape.length);
    const left = [...Array<Dim>(rank - result.length).fill(1), ...result];
    const right = [...Array<Dim>(rank - shape.length).fill(1), ...shape];
    result = left.map((a, axis) => {
      const b = right[axis]!;
      if (a === b || b === 1) return a;
      if (a === 1) return b;
      if (typeof a === 'number' && typeof b === 'number') {
        throw new ShapeError(
          node,
          input,
          `of shape ${describeShape(shape)} does not broadcast with ${describeShape(result)}`,
        );
      }
      return typeof a === 'number' ? a : typeof b === 'number' ? b : null;
    });
  }
  return result;
}

/** An axis counted from the front. @throws ShapeError if it lies outside [-rank, rank). */
export function axisOf(node: Node, axis: number, rank: number, input = 0): number {
  const counted = axis < 0 ? axis + rank : axis;
  if (counted < 0 || counted >= rank) {
    throw new ShapeError(node, input, `has rank ${rank}, which has no axis ${axis}`);
  }
  return counted;
}

/** The shape as plain numbers, where every size is known. */
export function knownShape(shape: Shape | undefined): readonly number[] | undefined {
  return shape?.every((size) => typeof size === 'number') ? shape : undefined;
}

/** The product of sizes as a number and the names that remain in it; undefined where a size is unknown. */
export function productOf(
  shape: Shape,
): { readonly count: number; readonly names: readonly string[] } | undefined {
  let count = 1;
  const names: string[] = [];
  for (const size of shape) {
    if (size === null) return undefined;
    if (typeof size === 'number') count *= size;
    else names.push(size);
  }
  return { count, names };
}

/** The product of sizes as one size: a number, a single name, or null where it is neither. */
export function mergedDim(shape: Shape): Dim {
  const product = productOf(shape);
  if (product === undefined) return null;
  if (product.names.length === 0 || product.count === 0) return product.count;
  return product.names.length === 1 && product.count === 1 ? product.names[0]! : null;
}

export function describeShape(shape: Shape): string {
  return `[${shape.map((size) => size ?? '?').join(', ')}]`;
}

/** The type of an input that the operator requires. @throws ShapeError where it is absent. */
export function requiredType(
  node: Node,
  inputs: readonly (ValueType | undefined)[],
  input: number,
): ValueType {
  const type = inputs[input];
  if (type === undefined) throw new ShapeError(node, input, 'is missing');
  return type;
}
