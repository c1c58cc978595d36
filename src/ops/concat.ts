import { BITS_PER_ELEMENT } from '../base/dtype.ts';
import { elementCount, type Tensor } from '../base/tensor.ts';
import { intAttribute } from '../graph/attributes.ts';
import type { Dim, Shape } from '../graph/model.ts';
import { uniteLabels } from './broadcast.ts';
import { axisOf, describeShape, requiredType } from './dims.ts';
import { ShapeError } from './errors.ts';
import { concatLabels, labelledAxes } from './label-tensor.ts';
import { type CouplingContext, defineOp, type Labels, type ShapeContext } from './op.ts';
import { elementsAt, type PartialTensor } from './partial.ts';
import { rewriteSizes } from './stated-sizes.ts';
import { MAX_DATA_ELEMENTS } from './strided.ts';

/** Puts its inputs one after the other along `axis`. */
export const Concat = defineOp({
  schema: { name: 'Concat', since: [1, 4, 11, 13], inputs: [1, Number.POSITIVE_INFINITY], outputs: [1, 1] },
  shape: ({ node, inputs }) => {
    const types = node.inputs.map((_, input) => requiredType(node, inputs, input));
    const { dtype } = types[0]!;
    const known = types.find((type) => type.shape !== undefined)?.shape;
    if (known === undefined) return [{ dtype }];
    const axis = axisOf(node, intAttribute(node, 'axis', 1), known.length);
    const shape: Dim[] = [...known];
    let total: Dim = 0;
    for (const [input, type] of types.entries()) {
      if (type.dtype !== dtype) throw new ShapeError(node, input, `is ${type.dtype}, input 0 is ${dtype}`);
      if (type.shape !== undefined)
        agree(shape, type.shape, axis, (expected) => new ShapeError(node, input, expected));
      const size: Dim = type.shape?.[axis] ?? null;
      total = typeof total === 'number' && typeof size === 'number' ? total + size : null;
    }
    return [{ dtype, shape: shape.with(axis, types.length === 1 ? known[axis]! : total) }];
  },
  gradient: (context) => {
    const { node, build, dy, xShape } = context;
    const shapes = node.inputs.map((_, input) => xShape(input));
    const axis = axisOf(node, intAttribute(node, 'axis', 1), shapes[0]!.length);
    if (shapes.length === 1) return [dy[0]];
    const sizes = shapes.map((shape) => shape[axis]!);
    return build.ops('Split', [dy[0], build.ints(sizes)], { axis }, { outputs: sizes.length });
  },
  coupling: coupleConcat,
  fold: (context) => {
    const parts = context.node.inputs.map(
      (_, input) => elementsAt(context, input) ?? unknownVector(context.inputs[input]),
    );
    if (!parts.every((part) => part !== undefined && part.shape.length === 1)) return joined(context);
    const elements = parts.flatMap((part) => part!.elements);
    return { dtype: parts[0]!.dtype, shape: [elements.length], elements };
  },
});

/** Stored tensors as one (a grid of positions); undefined where a part is computed, or all are too large. */
function joined({ node, constant }: ShapeContext): Tensor | undefined {
  const parts = node.inputs.map((_, input) => constant(input));
  if (!parts.every((part) => part !== undefined)) return undefined;
  const [first] = parts;
  const rank = first!.shape.length;
  const axis = axisOf(node, intAttribute(node, 'axis', 1), rank);
  const bits = BITS_PER_ELEMENT[first!.dtype];
  const total = parts.reduce((sum, { shape }) => sum + shape[axis]!, 0);
  const shape = first!.shape.with(axis, total);
  if (bits < 8 || elementCount(shape) > MAX_DATA_ELEMENTS) return undefined;
  const bytes = new Uint8Array((elementCount(shape) * bits) / 8);
  let at = 0;
  for (let block = 0; block < elementCount(shape.slice(0, axis)); block++) {
    for (const part of parts) {
      const length = (elementCount(part.shape.slice(axis)) * bits) / 8;
      bytes.set(part.bytes.subarray(block * length, (block + 1) * length), at);
      at += length;
    }
  }
  return { dtype: first!.dtype, shape, bytes };
}

/** A vector of known length and unknown elements: [batch computed somehow] ++ [64, 7, 7] still tells three sizes. */
function unknownVector(
  type: { dtype: PartialTensor['dtype']; shape?: Shape } | undefined,
): PartialTensor | undefined {
  const length = type?.shape?.[0];
  if (type?.shape?.length !== 1 || typeof length !== 'number') return undefined;
  return { dtype: type.dtype, shape: [length], elements: Array<Dim>(length).fill(null) };
}

/** Merges the sizes off the axis into `shape`: a number tells more than a name. */
function agree(shape: Dim[], other: Shape, axis: number, error: (expected: string) => ShapeError): void {
  if (other.length !== shape.length) throw error(`has rank ${other.length}, the others have ${shape.length}`);
  for (const [i, size] of other.entries()) {
    if (i === axis) continue;
    if (typeof size === 'number' && typeof shape[i] === 'number' && size !== shape[i]) {
      throw error(`of shape ${describeShape(other)} differs from ${describeShape(shape)} off axis ${axis}`);
    }
    if (typeof size === 'number') shape[i] = size;
    else if (shape[i] === null) shape[i] = size;
  }
}

/**
 * Along the channel axis the labels are concatenated, and no branch constrains another: channel offsetᵢ + k of the
 * output is channel k of input i; inputs without labels keep their place (-1). Along another axis the inputs are
 * united, as all must have the same channels.
 */
function coupleConcat(context: CouplingContext): void {
  const { node } = context;
  const inputs = withoutCrossing(
    context,
    node.inputs.map((_, input) => ({ input, shape: context.xShape(input), labels: context.labels(input) })),
  );
  const labelled = inputs.flatMap((entry) => (entry.labels === undefined ? [] : [entry.labels]));
  if (labelled.length === 0) return;
  const freezeAll = (reason: string) => {
    for (const labels of labelled) context.freeze(labels.data, reason);
  };
  const rank = labelled[0]!.shape.length;
  const axis = axisOf(node, intAttribute(node, 'axis', 1), rank);

  if (axis !== 1 && labelled.every((labels) => labelledAxes(labels).length === 0)) {
    // Lone channels ([1, 1, 1, 1]) do not tell which axis they lie on; they could not go anyway.
    freezeAll('is a single channel');
    return;
  }
  if (labelled.every((labels) => labelledAxes(labels).every((other) => other === axis))) {
    const parts: Labels[] = [];
    for (const { input, labels, shape } of inputs) {
      const size = shape?.[axis];
      if (typeof size !== 'number') {
        freezeAll('is concatenated with a part of unknown size');
        return;
      }
      const data =
        labels === undefined ? zeroLabels(context, input, axis, size) : repeated(labels.data, size);
      parts.push({ shape: Array<number>(rank).fill(1).with(axis, size), data });
    }
    context.produce(0, concatLabels(parts, axis));
    return;
  }

  let common: Labels | undefined;
  for (const { labels } of inputs) {
    if (labels === undefined) continue;
    if (common === undefined) common = labels;
    else if (common.shape.join() !== labels.shape.join()) {
      freezeAll('is concatenated with channels along another axis');
      return;
    } else common = uniteLabels(context, common, labels);
  }
  const [channelAxis, ...more] = labelledAxes(common!);
  if (channelAxis === axis || more.length > 0) {
    freezeAll('is concatenated along one of several axes with channels');
    return;
  }
  for (const { input, labels, shape } of inputs) {
    if (labels !== undefined || channelAxis === undefined) continue;
    if (context.isParameter(input) && shape?.[channelAxis] === common!.shape[channelAxis]) {
      context.bind(input, channelAxis, common!.data);
    } else if (!cutFill(context, input, channelAxis, { labels: common!.data })) {
      context.freeze(common!.data, 'is concatenated with an activation whose channels cannot go');
    }
  }
  context.produce(0, common!);
}

interface Part {
  readonly input: number;
  readonly shape: Shape | undefined;
  readonly labels: Labels | undefined;
}

/**
 * The parts, those with labels along other axes than the one along which channels are joined (positions of a stored
 * grid next to an image's channels) frozen and without labels.
 */
function withoutCrossing(context: CouplingContext, parts: readonly Part[]): readonly Part[] {
  const rank = parts.find(({ labels }) => labels !== undefined)?.labels?.shape.length;
  if (rank === undefined) return parts;
  const axis = axisOf(context.node, intAttribute(context.node, 'axis', 1), rank);
  const crosses = ({ labels }: Part) =>
    labels !== undefined && labelledAxes(labels).some((other) => other !== axis);
  const isJoined = ({ labels }: Part) => labels !== undefined && labelledAxes(labels).join() === `${axis}`;
  if (!parts.some(isJoined)) return parts;
  return parts.map((part) => {
    if (!crosses(part)) return part;
    context.freeze(part.labels!.data, 'is concatenated with channels along another axis');
    return { ...part, labels: undefined };
  });
}

/**
 * Labels of a part that has none: zeros, as a channel-padding shortcut is written, make channels of their own
 * that may go with those that they meet; whatever else keeps its place.
 */
function zeroLabels(context: CouplingContext, input: number, axis: number, size: number): Int32Array {
  const tensor = context.constant(input);
  const none: Int32Array = new Int32Array(size).fill(-1);
  if (tensor === undefined) {
    const fill = { labels: none };
    if (cutFill(context, input, axis, fill)) fill.labels = context.fresh(size);
    return fill.labels;
  }
  const isZero = tensor.shape[axis] === size && tensor.bytes.every((byte) => byte === 0);
  if (!isZero || !context.isParameter(input)) return none;
  const labels = context.fresh(size);
  context.bind(input, axis, labels);
  return labels;
}

/**
 * Makes a part that is one number throughout, in a shape that is computed (zeros for a batch without a size), follow the
 * channels along an axis.
 * @param following the channels; read when some are removed
 * @returns false where it is something else, or where its size is not stated or others could read it
 */
function cutFill(
  context: CouplingContext,
  input: number,
  axis: number,
  following: { readonly labels: Int32Array },
): boolean {
  const fill = context.producer(input);
  if (fill?.opType !== 'ConstantOfShape' || fill.domain !== '') return false;
  const { nodes, isExposed } = context.readers(fill.outputs[0]!);
  if (
    isExposed ||
    nodes.length !== 1 ||
    context.node.inputs.filter((name) => name === fill.outputs[0]).length > 1
  )
    return false;
  return rewriteSizes(context, 0, [axis], ({ kept }) => new Map([[axis, kept(following.labels)]]), fill);
}

/** A label that stands for every position along the axis, written out. */
function repeated(data: Int32Array, size: number): Int32Array {
  return data.length === size ? data : new Int32Array(size).fill(data[0]!);
}
