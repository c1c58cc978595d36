import { float32Tensor, int64Tensor, scalarTensor, type Tensor } from '../base/tensor.ts';
import type { Node } from '../graph/model.ts';
import { defineOp } from './op.ts';

/** A parameter that the file wrote as a node. Whoever consumes it binds it, as with an initialiser. */
export const Constant = defineOp({
  schema: { name: 'Constant', since: [1, 9, 11, 12, 13, 19, 21], inputs: [0, 0], outputs: [1, 1] },
  shape: ({ node }) => {
    const value = constantValue(node);
    return value === undefined ? [] : [{ dtype: value.dtype, shape: value.shape }];
  },
  coupling: () => {},
  fold: ({ node }) => constantValue(node),
});

/** The tensor that a Constant node stands for; undefined for sparse values, which are carried along as they are. */
export function constantValue(node: Node): Tensor | undefined {
  for (const [name, attribute] of node.attributes) {
    if (name === 'value' && attribute.kind === 'tensor') return attribute.value;
    if (name === 'value_float' && attribute.kind === 'float') return scalarTensor(attribute.value);
    if (name === 'value_floats' && attribute.kind === 'floats') {
      return float32Tensor([attribute.value.length], attribute.value);
    }
    if (name === 'value_int' && attribute.kind === 'int') return int64Tensor([Number(attribute.value)], []);
    if (name === 'value_ints' && attribute.kind === 'ints') return int64Tensor(attribute.value.map(Number));
    if (name === 'value_string' && attribute.kind === 'string') {
      return { dtype: 'string', shape: [], bytes: new Uint8Array(0), strings: [attribute.value] };
    }
    if (name === 'value_strings' && attribute.kind === 'strings') {
      const strings = attribute.value;
      return { dtype: 'string', shape: [strings.length], bytes: new Uint8Array(0), strings };
    }
  }
  return undefined;
}
