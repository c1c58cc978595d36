import { passLabels } from './broadcast.ts';
import { requiredType } from './dims.ts';
import { defineOp } from './op.ts';

export const Identity = defineOp({
  schema: { name: 'Identity', since: [1, 13, 14, 16, 19, 21], inputs: [1, 1], outputs: [1, 1] },
  shape: ({ node, inputs }) => [requiredType(node, inputs, 0)],
  gradient: ({ dy }) => [dy[0]],
  coupling: passLabels,
  fold: (context) => context.constant(0) ?? context.partial?.(0),
});
