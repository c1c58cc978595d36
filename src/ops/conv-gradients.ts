import { elementCount } from '../base/tensor.ts';
import { intAttribute } from '../graph/attributes.ts';
import type { AttributeValues, GraphBuilder } from '../graph/build.ts';
import type { Node } from '../graph/model.ts';
import { defineCompound } from './compound.ts';
import { flip, matMulTransposed, pad, reduceSum, reshape, slice, transpose } from './emit.ts';
import { transposedAttributes, type Windows, windowsOf } from './windows.ts';

/*
 * The two gradients of a two-dimensional convolution, as compound operators with the attributes of Conv (`group`,
 * `kernel_shape`, `strides`, `dilations`, `pads`, all written out).
 */

/** (dY, W, X) → dX, of the shape of X, whose values are not used. */
export const ConvInputGradient = defineCompound({
  schema: { name: 'ConvInputGradient', inputs: 3, outputs: 1 },
  shape: ({ inputs: [, , x] }) => [x ?? { dtype: 'float32' }],
  expand({ node, build, x, xShape }) {
    return [inputGradient(build, convGeometry(node, xShape(2), xShape(0)), x(0), x(1))];
  },
});

/** (X, dY) → dW [O, C / group, kh, kw]. */
export const ConvWeightGradient = defineCompound({
  schema: { name: 'ConvWeightGradient', inputs: 2, outputs: 1 },
  shape: ({ node, inputs: [x, dy] }) => {
    const channels = x?.shape?.[1];
    const perGroup = typeof channels === 'number' ? channels / intAttribute(node, 'group', 1) : null;
    return [
      { dtype: 'float32', shape: [dy?.shape?.[1] ?? null, perGroup, ...windowsOf(node, [1, 1]).kernel] },
    ];
  },
  expand({ node, build, x, xShape }) {
    const form = convGeometry(node, xShape(0), xShape(1));
    return [weightGradient(build, form, x(0), x(1), chooseWeightGradient(form))];
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

/** The sizes of a convolution from its node (or a gradient's, which has the same attributes) and X [N, C, H, W], Y [N, O, H', W']. */
export function convGeometry(
  node: Node,
  x: readonly number[],
  y: readonly number[],
  kernel?: readonly number[],
): ConvGeometry {
  return {
    batch: x[0]!,
    channels: x[1]!,
    filters: y[1]!,
    group: intAttribute(node, 'group', 1),
    input: [x[2]!, x[3]!],
    output: [y[2]!, y[3]!],
    windows: windowsOf(node, x.slice(2), kernel),
  };
}

/** Windows written out for two spatial axes; one axis is treated as two of which the first has size 1. */
export function planarAttributes(windows: Windows, group: number): AttributeValues {
  const two = (values: readonly number[], filler: number) =>
    values.length === 2 ? values : [filler, values[0]!];
  return {
    group,
    kernel_shape: two(windows.kernel, 1),
    strides: two(windows.strides, 1),
    dilations: two(windows.dilations, 1),
    pads: [...two(windows.padsBegin, 0), ...two(windows.padsEnd, 0)],
  };
}

/** A value of one spatial axis ([N, C, L] or a kernel) as one of two, [N, C, 1, L]. */
export function planar(build: GraphBuilder, value: string, shape: readonly number[]): string {
  return shape.length === 3 ? reshape(build, value, [shape[0]!, shape[1]!, 1, shape[2]!]) : value;
}
