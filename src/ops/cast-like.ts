import { passLabels } from './broadcast.ts';
import { requiredType } from './dims.ts';
import { defineOp } from './op.ts';

/** The first input in the element type of the second. */
export const CastLike = defineOp({
  schema: { name: 'CastLike', since: [15, 19, 21, 23, 24], inputs: [2, 2], outputs: [1, 1] },
  shape: ({ node, inputs }) => [
    { dtype: requiredType(node, inputs, 1).dtype, shape: requiredType(node, inputs, 0).shape },
  ],
  coupling: passLabels,
});
