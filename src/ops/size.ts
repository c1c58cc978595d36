import { mergedDim } from './dims.ts';
import { defineOp } from './op.ts';

/** How many elements a value has, as an int64 scalar. Like Shape it has no coupling: it counts channels. */
export const Size = defineOp({
  schema: { name: 'Size', since: [1, 13, 19, 21, 23], inputs: [1, 1], outputs: [1, 1] },
  shape: () => [{ dtype: 'int64', shape: [] }],
  fold: ({ inputs }) => {
    const shape = inputs[0]?.shape;
    return shape && { dtype: 'int64', shape: [], elements: [mergedDim(shape)] };
  },
});
