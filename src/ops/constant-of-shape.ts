import { BITS_PER_ELEMENT } from '../base/dtype.ts';
import { elementCount, scalarTensor, type Tensor } from '../base/tensor.ts';
import { tensorAttribute } from '../graph/attributes.ts';
import type { Dim, Node } from '../graph/model.ts';
import { knownShape, requiredType } from './dims.ts';
import { ShapeError } from './errors.ts';
import { defineOp, type ShapeContext } from './op.ts';
import { elementsAt } from './partial.ts';
import { MAX_DATA_ELEMENTS } from './strided.ts';

/**
 * A tensor of the given shape filled with one value (the `value` attribute, 0 of float32 by default). Exporters that
 * keep no weights write parameters like this. It has no coupling: channels enter it only as sizes.
 */
export const ConstantOfShape = defineOp({
  schema: { name: 'ConstantOfShape', since: [9, 20, 21, 23, 24], inputs: [1, 1], outputs: [1, 1] },
  shape: (context) => {
    const { dtype } = fillOf(context.node);
    const sizes = sizesAt(context);
    if (sizes !== undefined) return [{ dtype, shape: sizes }];
    const rank = requiredType(context.node, context.inputs, 0).shape?.[0];
    return [{ dtype, shape: typeof rank === 'number' ? Array<Dim>(rank).fill(null) : undefined }];
  },
  fold: (context) => {
    const shape = knownShape(sizesAt(context));
    const value = fillOf(context.node);
    const size = BITS_PER_ELEMENT[value.dtype] / 8;
    if (shape === undefined || size < 1 || elementCount(shape) > MAX_DATA_ELEMENTS) return undefined;
    const bytes = new Uint8Array(elementCount(shape) * size);
    // What is filled already is doubled until all is: far fewer steps than elements.
    bytes.set(value.bytes.subarray(0, bytes.length));
    for (let done = size; done < bytes.length; done *= 2) bytes.copyWithin(done, 0, done);
    return { dtype: value.dtype, shape, bytes };
  },
});

function fillOf(node: Node): Tensor {
  return tensorAttribute(node, 'value') ?? scalarTensor(0);
}

function sizesAt(context: ShapeContext): readonly Dim[] | undefined {
  const sizes = elementsAt(context, 0);
  if (sizes !== undefined && sizes.shape.length !== 1) {
    throw new ShapeError(context.node, 0, `must be a vector of sizes, has rank ${sizes.shape.length}`);
  }
  return sizes?.elements;
}
