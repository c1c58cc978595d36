import { intAttribute, stringAttribute } from '../graph/attributes.ts';
import type { Dim } from '../graph/model.ts';
import { ShapeError } from './errors.ts';
import { type CostContext, defineOp, type ShapeContext } from './op.ts';

/*
 * Recurrent layers over X [steps, batch, features] (with `layout` 1 [batch, steps, features], since opset 14): W
 * [directions, gates · hidden, features] and R [directions, gates · hidden, hidden] weigh the input and the state. They
 * have no coupling: whatever reaches them stays whole.
 */

export const GRU = recurrent('GRU', { gates: 3, since: [1, 3, 7, 14, 22], inputs: 6, outputs: 2 });
export const LSTM = recurrent('LSTM', { gates: 4, since: [1, 7, 14, 22], inputs: 8, outputs: 3 });
export const RNN = recurrent('RNN', { gates: 1, since: [1, 7, 14, 22], inputs: 6, outputs: 2 });

interface Layer {
  readonly gates: number;
  readonly since: readonly number[];
  /** Most inputs and outputs. */
  readonly inputs: number;
  readonly outputs: number;
}

function recurrent<const Name extends string>(name: Name, { gates, since, inputs, outputs }: Layer) {
  return defineOp({
    schema: { name, since, inputs: [3, inputs], outputs: [0, outputs] },
    shape: (context) => {
      const shapes = shapesOf(context);
      return context.node.outputs.map((_, i) => ({
        dtype: context.inputs[0]!.dtype, // X is required.
        shape: i === 0 ? shapes?.all : shapes?.last,
      }));
    },
    // Every step of every example multiplies its features and the state by all rows of W and R.
    cost: ({ inputs: [x, w] }: CostContext) => {
      const [directions, rows, features] = w as [number, number, number]; // Both are required, and have three axes.
      return { macs: x![0]! * x![1]! * directions * rows * (features + rows / gates) };
    },
  });
}

/** Y [steps, directions, batch, hidden], and the last state [directions, batch, hidden]; batch first in `layout` 1. */
function shapesOf({ node, inputs: [x, , r] }: ShapeContext): { all: Dim[]; last: Dim[] } | undefined {
  if (x?.shape === undefined) return undefined;
  if (x.shape.length !== 3)
    throw new ShapeError(node, 0, `has rank ${x.shape.length}, expected [steps, batch, features]`);
  const isBatchFirst = intAttribute(node, 'layout', 0) === 1;
  const [steps, batch] = isBatchFirst ? [x.shape[1]!, x.shape[0]!] : [x.shape[0]!, x.shape[1]!];
  const hidden = intAttribute(node, 'hidden_size', 0) || (r?.shape?.[2] ?? null);
  const directions = stringAttribute(node, 'direction', 'forward') === 'bidirectional' ? 2 : 1;
  return isBatchFirst
    ? { all: [batch, steps, directions, hidden], last: [batch, directions, hidden] }
    : { all: [steps, directions, batch, hidden], last: [directions, batch, hidden] };
}
