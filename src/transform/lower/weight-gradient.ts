import { elementCount } from '../../base/tensor.ts';
import { NCHWC_DOMAIN } from '../../graph/domains.ts';
import type { Node } from '../../graph/model.ts';
import {
  type ConvGeometry,
  chooseWeightGradient,
  convGeometry,
  weightGradient,
} from '../../ops/conv-gradients.ts';
import { flip, pad, reduceSum, transpose } from '../../ops/emit.ts';
import { reach } from '../../ops/windows.ts';
import { type Channels, isPaddedAtEnd, unpadAxes } from './channels.ts';
import { kindOf, resized, scaleRows } from './convolution.ts';
import { channelsLast, reorderInput, reorderOutput } from './kernels.ts';
import type { Blocked, Values } from './values.ts';

/** (X, dY) → dW, plain. A factor for each channel of dY is applied to dW. */
export function convolveWeightGradient(values: Values, node: Node): boolean {
  const [x, dy] = node.inputs as [string, string];
  const form = convGeometry(node, values.shape(x), values.shape(dy));
  const kind = kindOf(form);
  if (kind === undefined || !values.isBlocked(dy)) return false;
  const { build, block } = values;
  const { slots, of = dy } = values.scaled(dy) ?? {};
  const gradient =
    kind === 'depthwise'
      ? depthwiseWeightGradient(values, form, x, of)
      : form.batch % block !== 0 || form.windows.dilations[1] !== 1
        ? weightGradient(build, form, values.plain(x), values.plain(of), chooseWeightGradient(form))
        : isThinning(form) && values.isBlocked(x)
          ? denseWeightGradient(values, ...thinned(values, form, x), of)
          : denseWeightGradient(values, form, x, of);
  const shape = [form.filters, form.channels / form.group, ...form.windows.kernel];
  values.setPlain(
    node.outputs[0]!,
    slots === undefined
      ? gradient
      : scaleRows(values, gradient, shape, values.unpadVector(slots, values.channels(of))),
  );
  return true;
}

/**
 * dW[o,c,i,j] = Σ over images n and positions p of dY[n,o,p] · X[n,c,p + (i,j)] as a convolution of one image, made of
 * X, by one kernel, made of dY. Images are what is summed over, so they take the place of channels. Columns and
 * channels share the width, [H, W·C]: one step along it is a channel and C steps are a column, so the kernel, as large
 * as dY, is dilated by C (times the stride). The k·C results in a row are neighbours, which keeps the engine's kernels
 * busy: k results in a row would not. Each block of images is a group of its own, and the groups are added up at the
 * end; that way a single reorder brings X, and another one dY, into this form.
 *
 * With stride 1 the two can change places (the offsets then come out in reverse); the one of fewer channels slides,
 * because more has to be done to it.
 */
function denseWeightGradient(values: Values, form: ConvGeometry, x: string, dy: string): string {
  const { build, block } = values;
  const { batch, input, output, windows } = form;
  const [kh, kw] = windows.kernel as [number, number];
  const g = values.blocked(dy);
  const seen = values.isBlocked(x) ? values.blocked(x) : undefined;
  const mirrored = seen && g.channels.padded < seen.channels.padded ? mirroredPadding(form) : undefined;
  const sliding = mirrored
    ? slide(values, g, batch, output, mirrored)
    : seen
      ? slide(values, seen, batch, input, paddingForWeights(form))
      : slidePlain(values, form, values.plain(x));
  const held = mirrored ? { ...seen!, size: input } : { ...g, size: output };
  const groups = batch / block;
  const rows = held.channels.padded;
  // Blocks of channels and positions of a block of images: each position's images side by side.
  const kernel = channelsLast(
    build,
    values.view(held.value, [groups, block ** 2, (rows / block) * held.size[0], held.size[1]]),
    block ** 2,
  );
  const products = build.op(
    'Conv',
    [sliding.value, values.view(kernel, [groups * rows, block, ...held.size])],
    {
      group: groups,
      kernel_shape: held.size,
      dilations: [windows.strides[0]!, windows.strides[1]! * sliding.channels],
      strides: [windows.dilations[0]!, 1],
      pads: [sliding.above, 0, sliding.below, 0],
    },
    { domain: NCHWC_DOMAIN },
  );
  const offsets = kh * kw;
  const shape = [1, rows, offsets, sliding.channels];
  const sum =
    groups === 1
      ? values.view(products, shape)
      : reduceSum(build, values.view(products, [groups, ...shape]), [0]);
  // [held channels, offsets, sliding channels]; the reorder drops held padding at the end.
  const isTail = isPaddedAtEnd(held.channels);
  const kept = isTail ? held.channels.count : rows;
  const plain = values.view(reorderOutput(build, sum, kept), [kept, offsets, sliding.channels]);
  const heldAxis = isTail ? [] : [held.channels];
  const slidAxis = sliding.slots === undefined ? [] : [sliding.slots];
  if (mirrored) {
    const turned = offsets > 1 ? flip(build, plain, [1]) : plain;
    const ordered = values.view(transpose(build, turned, [2, 0, 1]), [sliding.channels, kept, kh, kw]);
    return unpadAxes(
      build,
      ordered,
      new Map([...slidAxis.map((c) => [0, c] as const), ...heldAxis.map((c) => [1, c] as const)]),
    );
  }
  const swapped = offsets > 1 ? transpose(build, plain, [0, 2, 1]) : plain;
  return unpadAxes(
    build,
    values.view(swapped, [kept, sliding.channels, kh, kw]),
    new Map([...heldAxis.map((c) => [0, c] as const), ...slidAxis.map((c) => [1, c] as const)]),
  );
}

interface Sliding {
  /** Blocked over images: [1, N, rows, columns · channels]. */
  readonly value: string;
  readonly channels: number;
  /** Which of them are padding; undefined: none is. */
  readonly slots?: Channels;
  /** Rows of zeros that the convolution is to add. */
  readonly above: number;
  readonly below: number;
}

/** A blocked value as the image of `denseWeightGradient`. */
function slide(
  values: Values,
  { value, channels }: Blocked,
  batch: number,
  size: readonly [number, number],
  { begin, end }: Padding,
): Sliding {
  const { build, block } = values;
  const isLarger = [...begin, ...end].every((count) => count >= 0);
  // Rows of zeros cost the convolution nothing, but columns of zeros halve its speed: those are added before.
  const sides = { begin: [isLarger ? 0 : begin[0]!, begin[1]!], end: [isLarger ? 0 : end[0]!, end[1]!] };
  const wide = isLarger
    ? framed(values, value, channels, sides)
    : resized(values, value, size, batch, channels, sides.begin, sides.end);
  const last = channels.padded === block ? wide : channelsLast(build, wide, channels.padded);
  const [height, width] = size.map((n, i) => n + sides.begin[i]! + sides.end[i]!) as [number, number];
  return {
    value: overImages(values, last, [batch, height, width, channels.padded]),
    channels: channels.padded,
    slots: channels,
    above: isLarger ? begin[0]! : 0,
    below: isLarger ? end[0]! : 0,
  };
}

/** A plain X of few channels as the image of `denseWeightGradient`. */
function slidePlain(values: Values, form: ConvGeometry, x: string): Sliding {
  const { begin, end } = paddingForWeights(form);
  const last = transpose(values.build, x, [0, 2, 3, 1]);
  const padded = pad(values.build, last, [0, ...begin, 0], [0, ...end, 0]);
  const [height, width] = form.input.map((n, i) => n + begin[i]! + end[i]!) as [number, number];
  return {
    value: overImages(values, padded, [form.batch, height, width, form.channels]),
    channels: form.channels,
    above: 0,
    below: 0,
  };
}

/** [N, H, W, C] with images in blocks: [1, N, H, W · C]. */
function overImages(values: Values, x: string, [batch, height, width, channels]: readonly number[]): string {
  const flat = values.view(x, [1, batch!, height!, width! * channels!]);
  return reorderInput(values.build, flat);
}

/** Zeros around a blocked value, and only every `strides`-th row and column of it: a convolution that copies. */
function framed(
  values: Values,
  x: string,
  { padded }: Channels,
  { begin, end }: Padding,
  strides: readonly number[] = [1, 1],
): string {
  if ([...begin, ...end].every((count) => count === 0) && strides.every((stride) => stride === 1)) return x;
  const ones = values.view(values.build.floats(new Array<number>(padded).fill(1)), [padded, 1, 1, 1]);
  return values.build.op(
    'Conv',
    [x, ones],
    { group: padded, kernel_shape: [1, 1], strides, pads: [...begin, ...end] },
    { domain: NCHWC_DOMAIN },
  );
}

/** Each plane of X with the same plane of dY as its kernel, summed over the batch. */
function depthwiseWeightGradient(values: Values, form: ConvGeometry, x: string, dy: string): string {
  const { build } = values;
  const { batch, output, windows } = form;
  const [kh, kw] = windows.kernel as [number, number];
  const { value: g, channels } = values.blocked(dy);
  const { begin, end } = paddingForWeights(form);
  const isLarger = [...begin, ...end].every((count) => count >= 0);
  const source = values.blocked(x, channels).value;
  const seen = isLarger
    ? framed(values, source, channels, { begin: [0, begin[1]!], end: [0, end[1]!] })
    : resized(values, source, form.input, batch, channels, begin, end);
  const [height, width] = form.input.map((n, i) => n + begin[i]! + end[i]!) as [number, number];
  const planes = batch * channels.padded;
  const product = build.op(
    'Conv',
    [
      values.view(seen, [1, planes, isLarger ? form.input[0] : height, width]),
      values.view(g, [planes, 1, ...output]),
    ],
    {
      group: planes,
      kernel_shape: output,
      dilations: windows.strides,
      strides: windows.dilations,
      ...(isLarger && { pads: [begin[0]!, 0, end[0]!, 0] }),
    },
    { domain: NCHWC_DOMAIN },
  );
  const sum = reduceSum(build, values.view(product, [batch, 1, channels.padded, kh, kw]), [0]);
  const isTail = isPaddedAtEnd(channels);
  const kept = isTail ? channels.count : channels.padded;
  const ordered = values.view(reorderOutput(build, sum, kept), [kept, 1, kh, kw]);
  return isTail ? ordered : unpadAxes(build, ordered, new Map([[0, channels]]));
}

/** Whether a 1×1 convolution passes over positions of its input. */
function isThinning({ windows: { kernel, strides, padsBegin, padsEnd } }: ConvGeometry): boolean {
  return (
    elementCount(kernel) === 1 &&
    elementCount(strides) > 1 &&
    [...padsBegin, ...padsEnd].every((count) => count === 0)
  );
}

/** X without the positions passed over, and the form of a convolution over all that remain. */
function thinned(values: Values, form: ConvGeometry, x: string): [form: ConvGeometry, x: string] {
  const { value, channels } = values.blocked(x);
  const none = { begin: [0, 0], end: [0, 0] };
  const kept = framed(values, value, channels, none, form.windows.strides);
  return [
    { ...form, input: form.output, windows: { ...form.windows, strides: [1, 1] } },
    values.alias(x, kept, channels),
  ];
}

interface Padding {
  readonly begin: readonly number[];
  readonly end: readonly number[];
}

/** What to add around dY so that a kernel of X's size has k×k positions on it; undefined where that cannot be. */
function mirroredPadding({ input, output, windows }: ConvGeometry): Padding | undefined {
  if (windows.strides.some((stride) => stride > 1)) return undefined;
  const inner = windows.kernel.map((size, i) => reach(size, windows.dilations[i]!) - 1);
  const begin = inner.map((size, i) => size - windows.padsBegin[i]!);
  const end = inner.map((size, i) => input[i]! + size - output[i]! - begin[i]!);
  return [...begin, ...end].every((count) => count >= 0) ? { begin, end } : undefined;
}

/** What to add around X (or cut off) so that a kernel of the output's size, dilated by the stride, has k×k positions. */
function paddingForWeights({ input, output, windows }: ConvGeometry): Padding {
  const begin = windows.padsBegin;
  const end = input.map((size, i) => {
    const needed = reach(windows.kernel[i]!, windows.dilations[i]!) + (output[i]! - 1) * windows.strides[i]!;
    return needed - size - begin[i]!;
  });
  return { begin, end };
}
