import { elementCount } from '../base/tensor.ts';
import { intAttribute } from '../graph/attributes.ts';
import { freezeInputs } from './channels.ts';
import { requiredType } from './dims.ts';
import { defineOp } from './op.ts';

/** y = x / (bias + alpha / size · Σ x²)^beta, the sum over `size` neighbouring channels (AlexNet, GoogLeNet). */
export const LRN = defineOp({
  schema: { name: 'LRN', since: [1, 13], inputs: [1, 1], outputs: [1, 1] },
  shape: ({ node, inputs }) => [requiredType(node, inputs, 0)],
  // Without a channel its neighbours would sum over others: no weight can be cut that makes up for that.
  coupling: (context) => freezeInputs(context, 'LRN sums over windows of neighbouring channels'),
  cost: ({ node, outputs: [y] }) => ({ macs: elementCount(y!) * intAttribute(node, 'size', 1) }),
});
