import { elementCount } from '../base/tensor.ts';
import { intAttribute } from '../graph/attributes.ts';
import type { GraphBuilder } from '../graph/build.ts';
import type { Dim, Node } from '../graph/model.ts';
import { alongAxis, freezeInputs, labelsAlong } from './channels.ts';
import { flip, matMulTransposed, pad, reduceSum, reshape, slice, transpose } from './emit.ts';
import { MissingRuleError, ShapeError } from './errors.ts';
import { type CouplingContext, defineOp, type GradientContext } from './op.ts';
import { outputSizes, transposedAttributes, type Windows, windowsOf } from './windows.ts';

/** Y[n,o,y,x] = Σ X[n,c,y·s−p+i·d,x·s−p+j·d] · W[o,c,i,j] + B[o], within each of `group` equal channel ranges. */
export const Conv = defineOp({
  schema: { name: 'Conv', since: [1, 11, 22], inputs: [2, 3], outputs: [1, 1] },
  shape({ node, inputs: [x, w] }) {
    const dtype = x?.dtype ?? w?.dtype ?? 'float32';
    if (x?.shape === undefined || w?.shape === undefined) return [{ dtype }];
    const { shape } = x;
    if (shape.length < 3)
      throw new ShapeError(node, 0, `has rank ${shape.length}, expected [N, C, spatial…]`);
    if (w.shape.length !== shape.length) {
      throw new ShapeError(node, 1, `has rank ${w.shape.length}, expected ${shape.length} like input 0`);
    }
    const group = intAttribute(node, 'group', 1);
    const [channels, perGroup, count] = [shape[1], w.shape[1], w.shape[0]];
    if (typeof channels === 'number' && typeof perGroup === 'number' && perGroup * group !== channels) {
      throw new ShapeError(
        node,
        0,
        `has ${channels} channels, the weight with group ${group} expects ${perGroup * group}`,
      );
    }
    if (typeof count === 'number' && count % group !== 0) {
      throw new ShapeError(node, 1, `has ${count} output channels, not a multiple of group ${group}`);
    }
    const kernel = w.shape.slice(2);
    if (!kernel.every((size) => typeof size === 'number')) {
      return [{ dtype, shape: [shape[0]!, count ?? null, ...shape.slice(2).map((): Dim => null)] }];
    }
    return [{ dtype, shape: [shape[0]!, count ?? null, ...outputSizes(node, shape.slice(2), kernel)] }];
  },
  gradient(context) {
    const { build, node } = context;
    const dy = context.dy[0];
    if (dy === undefined) return [];
    const form = geometryOf(context);
    const x = lift(build, context.x(0), context.xShape(0));
    const w = lift(build, context.x(1), context.xShape(1));
    const g = lift(build, dy, context.yShape(0));
    const lower = (value: string, input: number) =>
      context.xShape(input).length === 3 ? reshape(build, value, context.xShape(input)) : value;
    return [
      context.needs(0) ? lower(inputGradient(build, form, g, w), 0) : undefined,
      context.needs(1) ? lower(weightGradient(build, form, x, g, chooseWeightGradient(form)), 1) : undefined,
      node.inputs.length > 2 && node.inputs[2] !== '' && context.needs(2)
        ? reduceSum(build, g, [0, 2, 3])
        : undefined,
    ];
  },
  coupling: couple,
  cost({ inputs: [, w], outputs: [y] }) {
    // Each output element sums over the weight slice of its channel.
    return { macs: w === undefined ? 0 : elementCount(y!) * elementCount(w.slice(1)) };
  },
});

/** The sizes of one two-dimensional convolution with everything known. */
export interface ConvGeometry {
  readonly batch: number;
  readonly channels: number;
  readonly filters: number;
  readonly group: number;
  readonly input: readonly [number, number];
  readonly output: readonly [number, number];
  readonly windows: Windows;
}

/** Ways to write dW = Σ over batch and positions of X ⊗ dY; which one is fastest depends on the sizes. */
export type WeightGradientForm = 'pointwise' | 'per-offset' | 'per-offset-gemm' | 'columns' | 'separable';

/**
 * Sizes at which the weight gradient changes its form, from bench/conv-gradients.ts (batch 64, two threads,
 * ONNX Runtime 1.30, AVX-512; milliseconds for columns / per-offset / per-offset-gemm / separable):
 * 1→64 at 28×28: 3 / 11 / 14 / 16; 16→16: 11 / 5 / 8 / 8; 32→32: 25 / 16 / 20 / 20; 64→64: 74 / 64 / 80 / 61;
 * 128→128 at 14×14: 52 / 68 / 63 / 48; 256→256 at 7×7: 46 / 143 / 99 / 42; 128→256 stride 2: 44 / 40 / 31 / -.
 */
export const weightGradientDefaults = {
  /** Up to so many input channels (grey and colour images) all columns together are small. */
  columnsChannels: 4,
  /** Up to so many channels on either side products of one image each beat transposed copies of everything. */
  perOffsetChannels: 32,
  /** A pointwise product per image leaves batch · C · O sums to add up; beyond this (64 MiB) they cost more than a transpose. */
  pointwiseElements: 2 ** 24,
} as const;

/** The form for the weight gradient that is fastest at these sizes. */
export function chooseWeightGradient(form: ConvGeometry): WeightGradientForm {
  const { batch, channels, filters, group, windows } = form;
  const { columnsChannels, perOffsetChannels, pointwiseElements } = weightGradientDefaults;
  if (group > 1) return 'per-offset-gemm';
  if (elementCount(windows.kernel) === 1) {
    return batch * channels * filters <= pointwiseElements ? 'pointwise' : 'per-offset-gemm';
  }
  if (channels <= columnsChannels) return 'columns';
  if (Math.min(channels, filters) <= perOffsetChannels) return 'per-offset';
  return windows.strides.every((stride) => stride === 1) ? 'separable' : 'per-offset-gemm';
}

/**
 * dX. With stride 1 it is the convolution of dY with the weight flipped and its channel axes swapped; with
 * larger strides the transposed convolution, whose definition is just this gradient.
 */
export function inputGradient(build: GraphBuilder, form: ConvGeometry, dy: string, w: string): string {
  const { group, channels, filters, windows, input, output } = form;
  const { kernel, strides, dilations, padsBegin, padsEnd } = windows;
  if (strides.some((stride) => stride > 1)) {
    return build.op('ConvTranspose', [dy, w], { group, ...transposedAttributes(windows, input, output) });
  }
  let flipped = elementCount(kernel) > 1 ? flip(build, w, [2, 3]) : w;
  const [o, c] = [filters / group, channels / group];
  if (group === 1) flipped = transpose(build, flipped, [1, 0, 2, 3]);
  else if (o > 1 || c > 1) {
    const split = reshape(build, flipped, [group, o, c, ...kernel]);
    flipped = reshape(build, transpose(build, split, [0, 2, 1, 3, 4]), [channels, o, ...kernel]);
  }
  // "Full" padding d·(k−1) less what the forward pass padded; where that is negative the rows of dY that saw
  // nothing but padding are cropped.
  const begin = kernel.map((size, i) => (size - 1) * dilations[i]! - padsBegin[i]!);
  const end = kernel.map((size, i) => (size - 1) * dilations[i]! - padsEnd[i]!);
  const cropped = pad(
    build,
    dy,
    [0, 0, ...begin.map((count) => Math.min(0, count))],
    [0, 0, ...end.map((count) => Math.min(0, count))],
  );
  return build.op('Conv', [cropped, flipped], {
    group,
    kernel_shape: kernel,
    dilations,
    pads: [...begin, ...end].map((count) => Math.max(0, count)),
  });
}

/** dW of shape [O, C/group, kh, kw] in the named form; all forms compute the same sum. */
export function weightGradient(
  build: GraphBuilder,
  form: ConvGeometry,
  x: string,
  dy: string,
  way: WeightGradientForm,
): string {
  const { batch, channels, filters, group, output, windows } = form;
  const [kh, kw] = windows.kernel as [number, number];
  const [c, o] = [channels / group, filters / group];
  const positions = output[0] * output[1];
  const shape = [filters, c, kh, kw];
  switch (way) {
    case 'pointwise': {
      // One small product per image, then the sum over images: no transposed copies.
      const seen = offsets(build, form, x)[0]!;
      const each = matMulTransposed(
        build,
        reshape(build, dy, [batch, filters, positions]),
        reshape(build, seen, [batch, channels, positions]),
      );
      return reshape(build, reduceSum(build, each, [0]), shape);
    }
    case 'per-offset': {
      const flat = reshape(build, dy, [batch, filters, positions]);
      const each = offsets(build, form, x).map((seen) =>
        reduceSum(
          build,
          matMulTransposed(build, flat, reshape(build, seen, [batch, channels, positions])),
          [0],
          true,
        ),
      );
      return kernelLast(build, each, kh, kw, filters, channels);
    }
    case 'per-offset-gemm': {
      // Channels first: [C, N, H, W] makes each offset one product with inner size N·L (batched over groups).
      const flat = reshape(build, transpose(build, dy, [1, 0, 2, 3]), [group, o, batch * positions]);
      const each = offsets(build, form, transpose(build, x, [1, 0, 2, 3])).map((seen) =>
        reshape(build, matMulTransposed(build, flat, reshape(build, seen, [group, c, batch * positions])), [
          1,
          filters,
          c,
        ]),
      );
      return kernelLast(build, each, kh, kw, filters, c);
    }
    case 'columns': {
      const all = offsets(build, form, transpose(build, x, [1, 0, 2, 3]));
      const columns = reshape(build, build.op('Concat', all, { axis: 0 }), [kh * kw * c, batch * positions]);
      const flat = reshape(build, transpose(build, dy, [1, 0, 2, 3]), [filters, batch * positions]);
      const product = build.op('Gemm', [flat, columns], { transB: 1 });
      return transpose(build, reshape(build, product, [filters, kh, kw, c]), [0, 3, 1, 2]);
    }
    case 'separable': {
      // Stride 1 only. Shifting X along columns and dY along rows gives all kh·kw offsets from kh + kw copies:
      // dW[o,c,i,j] = Σ dY[n,o,r+p−i·d,x] · X[n,c,r,x−p+j·d] over all input rows r.
      const { dilations, padsBegin, padsEnd } = windows;
      const [height] = form.input;
      const before = Math.max(0, (kh - 1) * dilations[0]! - padsBegin[0]!);
      const after = Math.max(0, (kh - 1) * dilations[0]! - padsEnd[0]!);
      const rows = pad(build, transpose(build, dy, [1, 0, 2, 3]), [0, 0, before, 0], [0, 0, after, 0]);
      const shifted = Array.from({ length: kh }, (_, i) =>
        slice(build, rows, [{ axis: 2, start: padsBegin[0]! - i * dilations[0]! + before, count: height }]),
      );
      const columns = pad(
        build,
        transpose(build, x, [1, 0, 2, 3]),
        [0, 0, 0, padsBegin[1]!],
        [0, 0, 0, padsEnd[1]!],
      );
      const seen = Array.from({ length: kw }, (_, j) =>
        slice(build, columns, [{ axis: 3, start: j * dilations[1]!, count: output[1] }]),
      );
      const inner = batch * height * output[1];
      const left = reshape(build, build.op('Concat', shifted, { axis: 0 }), [kh * filters, inner]);
      const right = reshape(build, build.op('Concat', seen, { axis: 0 }), [kw * channels, inner]);
      const product = build.op('Gemm', [left, right], { transB: 1 });
      return transpose(build, reshape(build, product, [kh, filters, kw, channels]), [1, 3, 0, 2]);
    }
    default:
      return way satisfies never;
  }
}

/** X as each kernel offset sees it, kh·kw values with the output's spatial size. */
function offsets(build: GraphBuilder, form: ConvGeometry, x: string): string[] {
  const { kernel, strides, dilations, padsBegin, padsEnd } = form.windows;
  const [kh, kw] = kernel as [number, number];
  const padded = pad(build, x, [0, 0, ...padsBegin], [0, 0, ...padsEnd]);
  const whole = kh * kw === 1 && padded === x && form.input.every((size, i) => size === form.output[i]);
  if (whole) return [x];
  return Array.from({ length: kh * kw }, (_, index) =>
    slice(
      build,
      padded,
      [Math.floor(index / kw), index % kw].map((offset, i) => ({
        axis: i + 2,
        start: offset * dilations[i]!,
        count: form.output[i]!,
        step: strides[i]!,
      })),
    ),
  );
}

/** Turns kh·kw products of shape [1, O, C] into [O, C, kh, kw]. */
function kernelLast(
  build: GraphBuilder,
  each: readonly string[],
  kh: number,
  kw: number,
  filters: number,
  channels: number,
): string {
  const stacked = each.length === 1 ? each[0]! : build.op('Concat', each, { axis: 0 });
  return reshape(build, transpose(build, stacked, [1, 2, 0]), [filters, channels, kh, kw]);
}

function geometryOf(context: GradientContext): ConvGeometry {
  const { node } = context;
  const rank = context.xShape(0).length;
  if (rank !== 3 && rank !== 4) throw new MissingRuleError(node, 'gradient');
  const windows = windowsOf(node, context.xShape(0).slice(2), context.xShape(1).slice(2));
  // One spatial axis is treated as two of which the first has size 1.
  const two = (values: readonly number[], filler: number): [number, number] =>
    values.length === 2 ? [values[0]!, values[1]!] : [filler, values[0]!];
  return {
    batch: context.xShape(0)[0]!,
    channels: context.xShape(0)[1]!,
    filters: context.yShape(0)[1]!,
    group: intAttribute(node, 'group', 1),
    input: two(context.xShape(0).slice(2), 1),
    output: two(context.yShape(0).slice(2), 1),
    windows: {
      kernel: two(windows.kernel, 1),
      strides: two(windows.strides, 1),
      dilations: two(windows.dilations, 1),
      padsBegin: two(windows.padsBegin, 0),
      padsEnd: two(windows.padsEnd, 0),
    },
  };
}

function lift(build: GraphBuilder, value: string, shape: readonly number[]): string {
  return shape.length === 3 ? reshape(build, value, [shape[0]!, shape[1]!, 1, shape[2]!]) : value;
}

/**
 * group = 1: the input's labels bind the weight's axis 1, fresh labels its axis 0, the bias and the output.
 * group > 1: a group's inputs and outputs are one unit and go together, and `group` shrinks by the units that went.
 * For a depthwise convolution a unit is one input channel with its outputs.
 */
function couple(context: CouplingContext): void {
  const { node } = context;
  const w = context.constant(1);
  const rank = context.xShape(0)?.length ?? w?.shape.length;
  if (w === undefined || !context.isParameter(1) || rank === undefined) {
    freezeInputs(context, 'the weight of a Conv is computed, not stored');
    return;
  }
  const group = intAttribute(node, 'group', 1);
  const [filters, perGroup] = [w.shape[0]!, w.shape[1]!];
  const input = labelsAlong(context, 0, 1, perGroup * group);
  const bound = (labels: Int32Array) => {
    context.bind(1, 0, labels);
    if (hasInput(node, 2)) {
      if (context.isParameter(2)) context.bind(2, 0, labels);
      else context.freeze(labels, 'the bias of a Conv is computed, not stored');
    }
    context.produce(0, alongAxis(labels, 1, rank));
  };
  if (group === 1) {
    if (input !== undefined) context.bind(1, 1, input);
    bound(context.fresh(filters));
    return;
  }
  if (input === undefined) return;
  const heads = Int32Array.from({ length: group }, (_, g) => input[g * perGroup]!);
  if (perGroup > 1) {
    context.unite(
      input,
      Int32Array.from(input, (_, i) => heads[Math.floor(i / perGroup)]!),
    );
  }
  bound(Int32Array.from({ length: filters }, (_, i) => heads[Math.floor(i / (filters / group))]!));
  context.rewrite(({ kept }) => ({
    attributes: new Map([...node.attributes, ['group', { kind: 'int', value: BigInt(kept(heads)) }]]),
  }));
}

function hasInput(node: Node, index: number): boolean {
  return (node.inputs[index] ?? '') !== '';
}
