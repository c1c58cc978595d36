import type { Dim } from '../graph/model.ts';
import { coupleBroadcast, passLabels } from './broadcast.ts';
import { broadcastShapes, requiredType } from './dims.ts';
import { ShapeError } from './errors.ts';
import { foldElementWise } from './fold-element-wise.ts';
import { defineOp } from './op.ts';

/*
 * Element-wise operators whose result is true or false, one row each. They have no gradient. A size that has only a
 * name is still no negative number, so that tests for -1 ("as it is") can be decided.
 */

export const Equal = binary('Equal', [1, 7, 11, 13, 19], (a, b) => a === b);
export const Greater = binary('Greater', [1, 7, 9, 13], (a, b) => a > b);
export const Less = binary('Less', [1, 7, 9, 13], (a, b) => a < b);
export const GreaterOrEqual = binary('GreaterOrEqual', [12, 16], (a, b) => a >= b);
export const LessOrEqual = binary('LessOrEqual', [12, 16], (a, b) => a <= b);
export const And = binary('And', [1, 7], (a, b) => a !== 0 && b !== 0);
export const Or = binary('Or', [1, 7], (a, b) => a !== 0 || b !== 0);
export const Xor = binary('Xor', [1, 7], (a, b) => (a !== 0) !== (b !== 0));

export const Not = defineOp({
  schema: { name: 'Not', since: [1], inputs: [1, 1], outputs: [1, 1] },
  shape: ({ node, inputs }) => [requiredType(node, inputs, 0)],
  coupling: passLabels,
  fold: (context) => foldElementWise(context, (a) => (typeof a === 'number' ? Number(a === 0) : null)),
});

function binary<const Name extends string>(
  name: Name,
  since: readonly number[],
  compare: (a: number, b: number) => boolean,
) {
  return defineOp({
    schema: { name, since, inputs: [2, 2], outputs: [1, 1] },
    shape: ({ node, inputs }) => {
      const [a, b] = [requiredType(node, inputs, 0), requiredType(node, inputs, 1)];
      if (a.dtype !== b.dtype) throw new ShapeError(node, 1, `is ${b.dtype}, input 0 is ${a.dtype}`);
      return [{ dtype: 'bool', shape: broadcastShapes(node, [a.shape, b.shape]) }];
    },
    coupling: coupleBroadcast,
    fold: (context) => foldElementWise(context, (a, b) => decided(a, b, compare), 'bool'),
  });
}

/** 1 or 0, or null where it depends on a size that is not known. */
function decided(a: Dim, b: Dim, compare: (a: number, b: number) => boolean): Dim {
  if (typeof a === 'number' && typeof b === 'number') return Number(compare(a, b));
  if (typeof a === 'string' && a === b) return Number(compare(1, 1));
  // Whatever a size is, it lies above every negative number: any size stands for it, here 0.
  if (typeof a === 'string' && typeof b === 'number' && b < 0) return Number(compare(0, b));
  if (typeof b === 'string' && typeof a === 'number' && a < 0) return Number(compare(a, 0));
  return null;
}
