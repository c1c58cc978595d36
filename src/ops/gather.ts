import { BITS_PER_ELEMENT } from '../base/dtype.ts';
import { elementCount, int64Tensor, numbersOf, type Tensor } from '../base/tensor.ts';
import { intAttribute } from '../graph/attributes.ts';
import type { Node } from '../graph/model.ts';
import { alongAxis } from './channels.ts';
import { axisOf, requiredType } from './dims.ts';
import { expand, pad, reshape, transpose } from './emit.ts';
import { ShapeError } from './errors.ts';
import { gatherLabels, labelledAxes } from './label-tensor.ts';
import { type CouplingContext, defineOp, type GradientContext } from './op.ts';
import { elementsAt, integersAt } from './partial.ts';
import { MAX_DATA_ELEMENTS } from './strided.ts';

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
  gradient: (context) => [context.needs(0) ? addUp(context) : undefined],
  coupling: coupleGather,
  fold: (context) => {
    const data = elementsAt(context, 0);
    const indices = integersAt(context, 1);
    const shape = elementsAt(context, 1)?.shape;
    if (indices === undefined || shape === undefined) return undefined;
    if (data?.shape.length !== 1) {
      const table = context.constant(0);
      return table && lookedUp(context.node, table, indices, shape);
    }
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

/** Gradients of slices that were taken several times add up; slices that were not taken get zeros. */
function addUp(context: GradientContext): string {
  const { node, build, xShape } = context;
  const shape = xShape(0);
  const axis = axisOf(node, intAttribute(node, 'axis', 0), shape.length);
  const indexShape = xShape(1);
  const size = shape[axis]!;
  const [before, after] = [shape.slice(0, axis), shape.slice(axis + 1)];
  const dy = context.dy[0]!;
  const constant = context.constant(1);
  const [only, ...more] = constant === undefined ? [] : numbersOf(constant);
  if (only !== undefined && more.length === 0) {
    // One slice (a class token): zeros around it.
    const at = only < 0 ? only + size : only;
    const none = new Array<number>(shape.length).fill(0);
    return pad(
      build,
      reshape(build, dy, shape.with(axis, 1)),
      none.with(axis, at),
      none.with(axis, size - 1 - at),
    );
  }
  const count = elementCount(indexShape);
  const [outer, inner] = [elementCount(before), elementCount(after)];
  // As a matrix of one row for each index, so that one operator adds rows up.
  const rows = reshape(build, transpose(build, reshape(build, dy, [outer, count, inner]), [1, 0, 2]), [
    count,
    outer * inner,
  ]);
  const indices = expand(build, build.op('Cast', [reshape(build, context.x(1), [count, 1])], { to: INT64 }), [
    count,
    outer * inner,
  ]);
  const zeros = expand(build, build.scalar(0), [size, outer * inner]);
  const sums = build.op('ScatterElements', [zeros, indices, rows], { axis: 0, reduction: 'add' });
  return reshape(build, transpose(build, reshape(build, sums, [size, outer, inner]), [1, 0, 2]), shape);
}

/** The number of int64 in ONNX's list of types, as Cast wants it. */
const INT64 = 7;

/** The slices of a stored tensor at known indices (a relative position bias); undefined where that is too large. */
function lookedUp(
  node: Node,
  table: Tensor,
  indices: readonly number[],
  indexShape: readonly number[],
): Tensor | undefined {
  const axis = axisOf(node, intAttribute(node, 'axis', 0), table.shape.length);
  const size = table.shape[axis]!;
  const [outer, inner] = [table.shape.slice(0, axis), table.shape.slice(axis + 1)];
  const rowBytes = (elementCount(inner) * BITS_PER_ELEMENT[table.dtype]) / 8;
  const shape = [...outer, ...indexShape, ...inner];
  if (BITS_PER_ELEMENT[table.dtype] < 8 || elementCount(shape) > MAX_DATA_ELEMENTS) return undefined;
  const bytes = new Uint8Array(elementCount(outer) * indices.length * rowBytes);
  let at = 0;
  for (let block = 0; block < elementCount(outer); block++) {
    for (const index of indices) {
      const position = index < 0 ? index + size : index;
      if (position < 0 || position >= size) {
        throw new ShapeError(node, 1, `holds index ${index}, axis ${axis} of input 0 has ${size} positions`);
      }
      const from = (block * size + position) * rowBytes;
      bytes.set(table.bytes.subarray(from, from + rowBytes), at);
      at += rowBytes;
    }
  }
  return { dtype: table.dtype, shape, bytes };
}

/**
 * Channels may be picked and reordered by a constant vector of indices, which then follows what is left. Along another
 * axis they pass: the axis gives way to those of the indices. A stored table that is looked up (an embedding) makes
 * channels of its last axis.
 */
function coupleGather(context: CouplingContext): void {
  const labels = context.labels(0);
  const indexRank = context.xShape(1)?.length;
  if (labels === undefined) {
    coupleLookup(context, indexRank);
    return;
  }
  const rank = labels.shape.length;
  const axis = axisOf(context.node, intAttribute(context.node, 'axis', 0), rank);
  const indices = context.constant(1);
  const axes = labelledAxes(labels);
  if (axes.length === 0 || !axes.includes(axis)) {
    if (axes.length === 0 || indexRank === undefined) {
      context.freeze(labels.data, 'is gathered from along another axis');
      return;
    }
    const ones = new Array<number>(indexRank).fill(1);
    const shape = [...labels.shape.slice(0, axis), ...ones, ...labels.shape.slice(axis + 1)];
    context.produce(0, { shape, data: labels.data });
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

function coupleLookup(context: CouplingContext, indexRank: number | undefined): void {
  const table = context.constant(0);
  const axis = intAttribute(context.node, 'axis', 0);
  const isLookup = table?.shape.length === 2 && axis === 0 && table.dtype.startsWith('float');
  if (!isLookup || !context.isParameter(0) || indexRank === undefined) return;
  const units = context.fresh(table.shape[1]!);
  context.bind(0, 1, units);
  context.produce(0, alongAxis(units, indexRank, indexRank + 1));
}
