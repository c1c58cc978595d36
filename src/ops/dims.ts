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

/** A product of sizes: a number and the names of those that have none, in alphabetical order. */
export interface Product {
  readonly count: number;
  readonly names: readonly string[];
}

/** The product of sizes; undefined where one is unknown. A size may be a product already: ['8·N', 3] gives 24 and N. */
export function productOf(shape: Shape): Product | undefined {
  let count = 1;
  const names: string[] = [];
  for (const size of shape) {
    if (size === null) return undefined;
    if (typeof size === 'number') {
      count *= size;
      continue;
    }
    for (const factor of size.split(TIMES)) {
      if (/^\d+$/.test(factor)) count *= Number(factor);
      else names.push(factor);
    }
  }
  return { count, names: names.sort() };
}

/** The product of sizes as one size: 24, 'N', '24·N', 'N·T'; null where one of them is unknown. */
export function mergedDim(shape: Shape): Dim {
  const product = productOf(shape);
  return product === undefined ? null : dimOf(product);
}

/** What a product is after a whole division by another size: '24·N' by 8 is '3·N'; null where that is not known to go. */
export function dividedDim(whole: Dim, part: Dim): Dim {
  const [from, to] = [productOf([whole]), productOf([part])];
  if (from === undefined || to === undefined || to.count === 0 || from.count % to.count !== 0) return null;
  const names = [...from.names];
  for (const name of to.names) {
    const at = names.indexOf(name);
    if (at < 0) return null;
    names.splice(at, 1);
  }
  return dimOf({ count: from.count / to.count, names });
}

/**
 * A name from a file as one that stands for itself: products are written with a sign of their own, which a name cannot
 * have, and digits alone are no name.
 */
export function plainName(name: string): string {
  const plain = name.replaceAll(TIMES, '∙');
  return /^\d+$/.test(plain) ? `_${plain}` : plain;
}

/** Whether a size is a product of several factors of which not all are known. */
export function isCompoundDim(size: Dim): size is string {
  return typeof size === 'string' && size.includes(TIMES);
}

function dimOf({ count, names }: Product): Dim {
  if (names.length === 0 || count === 0) return count;
  return [...(count === 1 ? [] : [count]), ...names].join(TIMES);
}

/** Stands between the factors of a size that is a product. */
const TIMES = '·';

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
