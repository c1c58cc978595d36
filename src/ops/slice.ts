import { int64Tensor, type Tensor } from '../base/tensor.ts';
import { intsAttribute } from '../graph/attributes.ts';
import type { Dim } from '../graph/model.ts';
import { uniteLabels } from './broadcast.ts';
import { axisOf, requiredType } from './dims.ts';
import { expand, flip, pad, reshape } from './emit.ts';
import { MissingRuleError, ShapeError } from './errors.ts';
import { gatherLabels, labelledAxes, sliceLabels } from './label-tensor.ts';
import {
  type CouplingContext,
  defineOp,
  type GradientContext,
  type Labels,
  type ShapeContext,
  type TrainingContext,
} from './op.ts';
import { elementsAt, integersAt, type PartialTensor } from './partial.ts';
import { stridesOf, walked, walkedElements } from './strided.ts';

/** A part along some axes; starts, ends, axes are attributes before opset 10, and inputs (with steps) since. */
export const Slice = defineOp({
  schema: { name: 'Slice', since: [1, 10, 11, 13], inputs: [1, 5], outputs: [1, 1] },
  shape: (context) => {
    const { dtype, shape } = requiredType(context.node, context.inputs, 0);
    if (shape === undefined) return [{ dtype }];
    const cuts = cutsOf(context, shape.length);
    if (cuts === undefined) {
      const cut = context.opset >= 10 && context.node.inputs[3] ? integersAt(context, 3) : undefined;
      const axes = new Set(cut?.map((axis) => axisOf(context.node, axis, shape.length)));
      return [{ dtype, shape: shape.map((size, axis) => (cut && !axes.has(axis) ? size : null)) }];
    }
    const sizes: Dim[] = [...shape];
    for (const cut of cuts) {
      const size = shape[cut.axis]!;
      if (typeof size === 'number') sizes[cut.axis] = rangeOf(cut, size).length;
      else if (!(cut.start === 0 && cut.end >= Number.MAX_SAFE_INTEGER && cut.step === 1))
        sizes[cut.axis] = null;
    }
    return [{ dtype, shape: sizes }];
  },
  gradient: (context) => [context.needs(0) ? putBack(context) : undefined],
  training: writeSlice,
  coupling: coupleSlice,
  fold: (context) => {
    const x = elementsAt(context, 0);
    if (x?.shape.length !== 1) return slicedData(context);
    const cuts = cutsOf(context, 1);
    if (cuts === undefined) return undefined;
    let { elements } = x;
    for (const cut of cuts) elements = rangeOf(cut, elements.length).map((index) => elements[index]!);
    return { dtype: x.dtype, shape: [elements.length], elements };
  },
});

/** The part of a stored tensor, or of sizes; undefined where there is none, or where it is not known which. */
function slicedData(context: ShapeContext): Tensor | PartialTensor | undefined {
  const x = context.constant(0);
  const whole = x ?? elementsAt(context, 0);
  const cuts = whole && cutsOf(context, whole.shape.length);
  if (whole === undefined || cuts === undefined) return undefined;
  const [shape, strides] = [[...whole.shape], stridesOf(whole.shape)];
  let offset = 0;
  for (const { axis, ...cut } of cuts) {
    const range = rangeOf({ axis, ...cut }, shape[axis]!);
    offset += (range[0] ?? 0) * strides[axis]!;
    shape[axis] = range.length;
    strides[axis]! *= cut.step;
  }
  const walk = { shape, strides, offset };
  return 'elements' in whole ? walkedElements(whole, walk) : walked(whole, walk);
}

/** In a training graph (opset 17) the bounds are inputs, whatever the model's own opset says. */
function writeSlice({ node, opset, build, x }: TrainingContext): void {
  const bound = (name: string) => build.ints(intsAttribute(node, name, []));
  const axes = intsAttribute(node, 'axes');
  const inputs =
    opset < 10
      ? [x(0), bound('starts'), bound('ends'), axes && build.ints(axes)]
      : node.inputs.map((name, input) => (name === '' ? undefined : x(input)));
  build.ops('Slice', inputs, {}, { outputs: [node.outputs[0]!], name: node.name });
}

/** What the slice took gets its gradient, everything around and between it zeros: cut by cut, from the last to the first. */
function putBack(context: GradientContext): string {
  const { node, build, xShape } = context;
  let value = context.dy[0]!;
  const cuts = cutsOf(context, xShape(0).length);
  if (cuts === undefined) throw new MissingRuleError(node, 'for bounds that are computed');
  const shape = [...context.yShape(0)];
  if (shape.includes(0)) return expand(build, build.scalar(0), xShape(0));
  for (const cut of cuts) {
    const { axis, step } = cut;
    const size = xShape(0)[axis]!;
    const range = rangeOf(cut, size);
    if (step < 0) value = flip(build, value, [axis]);
    const first = Math.min(range[0]!, range.at(-1)!);
    const block = Math.abs(step);
    const count = range.length;
    const around = (at: number, before: number, after: number, rank: number) =>
      [before, after].map((pads) => new Array<number>(rank).fill(0).with(at, pads)) as [number[], number[]]; // Two in, two out.
    if (block > 1) {
      // Each element becomes the first of a block: [a, b] at step 3 is [a, 0, 0, b, 0, 0].
      const apart = shape.toSpliced(axis + 1, 0, 1);
      value = pad(build, reshape(build, value, apart), ...around(axis + 1, 0, block - 1, apart.length));
      value = reshape(build, value, shape.with(axis, count * block));
    }
    value = pad(build, value, ...around(axis, first, size - first - count * block, shape.length));
    shape[axis] = size;
  }
  return value;
}

interface Cut {
  readonly axis: number;
  readonly start: number;
  readonly end: number;
  readonly step: number;
}

function cutsOf(
  context: Pick<ShapeContext, 'node' | 'opset' | 'constant' | 'partial'> & {
    inputs?: ShapeContext['inputs'];
  },
  rank: number,
): Cut[] | undefined {
  const { node, opset } = context;
  const full = { ...context, inputs: context.inputs ?? [] };
  const values = (input: number, attribute: string) =>
    opset < 10 ? intsAttribute(node, attribute) : node.inputs[input] ? integersAt(full, input) : undefined;
  const starts = values(1, 'starts');
  const ends = values(2, 'ends');
  if (starts === undefined || ends === undefined) return undefined;
  const axes = values(3, 'axes');
  const steps = opset < 10 ? undefined : values(4, 'steps');
  if (
    (axes === undefined && opset >= 10 && node.inputs[3]) ||
    (steps === undefined && opset >= 10 && node.inputs[4])
  ) {
    return undefined;
  }
  if (ends.length !== starts.length || (axes !== undefined && axes.length !== starts.length)) {
    throw new ShapeError(node, 2, `has ${ends.length} ends for ${starts.length} starts`);
  }
  return starts.map((start, i) => {
    const step = steps?.[i] ?? 1;
    if (step === 0) throw new ShapeError(node, 4, 'holds a step of 0');
    // "To the end" is INT64_MAX in files, which as a number would no longer fit into an int64 when written back.
    const end = Math.min(ends[i]!, Number.MAX_SAFE_INTEGER);
    return { axis: axisOf(node, axes?.[i] ?? i, rank), start, end, step };
  });
}

/** The indices of a cut in an axis of the given size: negative bounds count from the end, all are clamped. */
function rangeOf({ start, end, step }: Cut, size: number): number[] {
  const clamp = (value: number, low: number, high: number) => Math.min(Math.max(value, low), high);
  const counted = (value: number) => (value < 0 ? value + size : value);
  const from = step > 0 ? clamp(counted(start), 0, size) : clamp(counted(start), 0, size - 1);
  const to = step > 0 ? clamp(counted(end), 0, size) : clamp(counted(end), -1, size - 1);
  const count = Math.max(0, Math.ceil((to - from) / step));
  return Array.from({ length: count }, (_, i) => from + i * step);
}

/**
 * A range of channels keeps its labels; its bounds follow what is left of the channels before and inside it. With a
 * step s, channels go in blocks of s, counted from channel 0, so that every s-th of those that stay is still the right
 * one: of [0 1 | 2 3 | 4 5] at step 2, removing block 1 leaves [0 1 | 4 5], of which 0 and 4 are taken.
 */
function coupleSlice(context: CouplingContext): void {
  const { node, opset } = context;
  const labels = context.labels(0);
  if (labels === undefined) return;
  const cuts = cutsOf(context, labels.shape.length);
  const axes = labelledAxes(labels);
  if (cuts === undefined) {
    context.freeze(labels.data, 'is sliced at bounds that are not constant');
    return;
  }
  const at = cuts.findIndex((cut) => axes.includes(cut.axis));
  if (at < 0 && axes.length > 0) {
    context.produce(0, labels);
    return;
  }
  const isRewritable = opset < 10 || (context.isParameter(1) && context.isParameter(2));
  const cut = cuts[at];
  if (cut === undefined || axes.length > 1 || !isRewritable) {
    context.freeze(labels.data, 'is sliced in a way that cannot be rewritten');
    return;
  }
  const { axis, step } = cut;
  const size = labels.shape[axis]!;
  const range = rangeOf(cut, size);
  if (range.length === 0) return;
  const block = Math.abs(step);
  const offset = range[0]! % block;
  uniteBlocks(context, labels, axis, block);
  const inside = gatherLabels(labels, axis, range);
  const before = sliceLabels(labels, axis, 0, Math.min(range[0]!, range.at(-1)!) - offset);
  context.produce(0, inside);
  context.rewrite((pruned) => {
    const lowest = pruned.kept(before.data) + offset;
    const span = Math.max(0, pruned.kept(inside.data) - 1) * block;
    const isEmpty = pruned.kept(inside.data) === 0;
    const start = step > 0 ? lowest : lowest + span;
    const end = isEmpty ? start : step > 0 ? lowest + span + 1 : lowest - 1;
    const starts = cuts.map((other) => other.start).with(at, start);
    // An end of -1 would count from the back; one far below 0 means "down to the first".
    const ends = cuts.map((other) => other.end).with(at, end < 0 ? BEFORE_FIRST : end);
    return opset < 10
      ? { attributes: new Map([...node.attributes, bounds('starts', starts), bounds('ends', ends)]) }
      : {
          constants: new Map([
            [1, int64Tensor(starts)],
            [2, int64Tensor(ends)],
          ]),
        };
  });
}

/** Below every -size - 1, and exact in every integer type that bounds may have. */
const BEFORE_FIRST = -(2 ** 31);

/** Unites the labels within each block of `block` positions; the last block may be shorter. */
function uniteBlocks(context: CouplingContext, labels: Labels, axis: number, block: number): void {
  const size = labels.shape[axis]!;
  const first = (position: number) => position - (position % block);
  const positions = Array.from({ length: size }, (_, position) => position);
  const later = positions.filter((position) => position % block !== 0);
  if (later.length === 0) return;
  uniteLabels(context, gatherLabels(labels, axis, later.map(first)), gatherLabels(labels, axis, later));
}

function bounds(name: string, values: readonly number[]): [string, { kind: 'ints'; value: bigint[] }] {
  return [name, { kind: 'ints', value: values.map(BigInt) }];
}
