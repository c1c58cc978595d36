import { int64Tensor, numbersOf } from '../base/tensor.ts';
import { intAttribute } from '../graph/attributes.ts';
import { axisOf, requiredType } from './dims.ts';
import { ShapeError } from './errors.ts';
import { gatherLabels, labelledAxes } from './label-tensor.ts';
import { type CouplingContext, defineOp } from './op.ts';
import { elementsAt, integersAt } from './partial.ts';

/** The slices of the data at given indices along an axis: data axes before, the indices' axes, data axes after. */
export const Gather = defineOp({
  schema: { name: 'Gather', since: [1, 11, 13], inputs: [2, 2], outputs: [1, 1] },
  shape: ({ node, inputs }) => {
    const data = requiredType(node, inputs, 0);
    const indices = requiredType(node, inputs, 1);
    if (data.shape === undefined || indices.shape === undefined) return [{ dtype: data.dtype }];
    const axis = axisOf(node, intAttribute(node, 'axis', 0), data.shape.length);
    return [
      {
        dtype: data.dtype,
        shape: [...data.shape.slice(0, axis), ...indices.shape, ...data.shape.slice(axis + 1)],
      },
    ];
  },
  coupling: coupleGather,
  fold: (context) => {
    const data = elementsAt(context, 0);
    const indices = integersAt(context, 1);
    const shape = elementsAt(context, 1)?.shape;
    if (data?.shape.length !== 1 || indices === undefined || shape === undefined) return undefined;
    const elements = indices.map((index) => {
      const at = index < 0 ? index + data.elements.length : index;
      const element = data.elements[at];
      if (element === undefined) {
        throw new ShapeError(
          context.node,
          1,
          `holds index ${index}, input 0 has ${data.elements.length} elements`,
        );
      }
      return element;
    });
    return { dtype: data.dtype, shape, elements };
  },
});

/** Channels may be picked and reordered by a constant vector of indices, which then follows what is left. */
function coupleGather(context: CouplingContext): void {
  const labels = context.labels(0);
  if (labels === undefined) return;
  const rank = labels.shape.length;
  const axis = axisOf(context.node, intAttribute(context.node, 'axis', 0), rank);
  const indices = context.constant(1);
  const axes = labelledAxes(labels);
  if (axes.length === 0 || !axes.includes(axis)) {
    // Another axis than the channels': the output's rank is the input's where the indices are a vector.
    const indexRank = context.xShape(1)?.length;
    if (axes.length === 0 || indexRank !== 1) {
      context.freeze(labels.data, 'is gathered from along another axis');
      return;
    }
    context.produce(0, labels);
    return;
  }
  if (indices?.shape.length !== 1 || !context.isParameter(1) || axes.length > 1) {
    context.freeze(labels.data, 'is gathered from by indices that cannot be rewritten');
    return;
  }
  const size = labels.shape[axis]!;
  const positions = numbersOf(indices).map((index) => (index < 0 ? index + size : index));
  const gathered = gatherLabels(labels, axis, positions);
  context.produce(0, gathered);
  context.rewrite((pruned) => {
    const rankOf = new Map(pruned.keptIndices(labels.data).map((index, at) => [index, at]));
    const kept = pruned.keptIndices(gathered.data).map((at) => rankOf.get(positions[at]!)!);
    return { constants: new Map([[1, int64Tensor(kept)]]) };
  });
}
