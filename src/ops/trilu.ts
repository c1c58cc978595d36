import { elementCount } from '../base/tensor.ts';
import { intAttribute } from '../graph/attributes.ts';
import { requiredType } from './dims.ts';
import { ShapeError } from './errors.ts';
import { defineOp } from './op.ts';
import { elementsAt, integersAt, type PartialTensor } from './partial.ts';

/** Zero below (or, with `upper` 0, above) a diagonal of the matrices in the last two axes: masks of attention. */
export const Trilu = defineOp({
  schema: { name: 'Trilu', since: [14], inputs: [1, 2], outputs: [1, 1] },
  shape: ({ node, inputs }) => {
    const x = requiredType(node, inputs, 0);
    if (x.shape !== undefined && x.shape.length < 2)
      throw new ShapeError(node, 0, 'must have two axes or more');
    return [x];
  },
  gradient: ({ node, build, dy, needs, x }) => [
    needs(0)
      ? build.op('Trilu', [dy[0], node.inputs[1] ? x(1) : undefined], {
          upper: intAttribute(node, 'upper', 1),
        })
      : undefined,
  ],
  coupling: (context) => {
    const labels = context.labels(0);
    if (labels === undefined) return;
    if (labels.data.length > 1 && labels.shape.slice(-2).every((size) => size === 1))
      context.produce(0, labels);
    else context.freeze(labels.data, 'is cut along a diagonal');
  },
  fold: (context): PartialTensor | undefined => {
    const { node } = context;
    const x = elementsAt(context, 0);
    const k = node.inputs[1] ? integersAt(context, 1)?.[0] : 0;
    if (x === undefined || k === undefined) return undefined;
    const columns = x.shape.at(-1)!;
    const rows = x.shape.at(-2)!;
    const isUpper = intAttribute(node, 'upper', 1) !== 0;
    const elements = Array.from({ length: elementCount(x.shape) }, (_, at) => {
      const ahead = (at % columns) - (Math.floor(at / columns) % rows);
      return (isUpper ? ahead >= k : ahead <= k) ? x.elements[at]! : 0;
    });
    return { ...x, elements };
  },
});
