import { intAttribute, intsAttribute } from '../graph/attributes.ts';
import type { Dim, ValueType } from '../graph/model.ts';
import { passOverSpace } from './channels.ts';
import { requiredType } from './dims.ts';
import { ShapeError } from './errors.ts';
import { type CouplingContext, defineOp, type ShapeContext } from './op.ts';

/*
 * Operators that read each channel at positions that another input gives: channels of the image pass, those that
 * would tell positions stay.
 */

/** X [N, C, spatial…] interpolated at the positions of a grid [N, out…, axes]. */
export const GridSample = defineOp({
  schema: { name: 'GridSample', since: [16, 20, 22], inputs: [2, 2], outputs: [1, 1] },
  shape: ({ node, inputs }) => {
    const { dtype, shape } = requiredType(node, inputs, 0);
    const grid = requiredType(node, inputs, 1).shape;
    if (shape === undefined || grid === undefined) return [{ dtype }];
    if (grid.length !== shape.length)
      throw new ShapeError(node, 1, `has rank ${grid.length}, expected ${shape.length} like input 0`);
    return [{ dtype, shape: [shape[0]!, shape[1]!, ...grid.slice(1, -1)] }];
  },
  coupling: coupleSampling,
});

/** The part of X in each of R regions, interpolated to a fixed size: [R, C, height, width]. */
export const RoiAlign = defineOp({
  schema: { name: 'RoiAlign', since: [10, 16, 22], inputs: [3, 3], outputs: [1, 1] },
  shape: (context) =>
    perRegion(context, [
      intAttribute(context.node, 'output_height', 1),
      intAttribute(context.node, 'output_width', 1),
    ]),
  coupling: coupleSampling,
});

/** The largest value in each cell of a fixed grid over each of R regions: [R, C, height, width]. */
export const MaxRoiPool = defineOp({
  schema: { name: 'MaxRoiPool', since: [1, 22], inputs: [2, 2], outputs: [1, 1] },
  shape: (context) => perRegion(context, intsAttribute(context.node, 'pooled_shape', [1, 1])),
  coupling: coupleSampling,
});

function perRegion({ node, inputs }: ShapeContext, size: readonly number[]): ValueType[] {
  const { dtype, shape } = requiredType(node, inputs, 0);
  const regions: Dim = requiredType(node, inputs, 1).shape?.[0] ?? null;
  return [{ dtype, shape: shape && [regions, shape[1]!, ...size] }];
}

function coupleSampling(context: CouplingContext): void {
  passOverSpace(context);
  for (let input = 1; input < context.node.inputs.length; input++) {
    const labels = context.labels(input);
    if (labels !== undefined)
      context.freeze(labels.data, `${context.node.opType} reads positions from these channels`);
  }
}
