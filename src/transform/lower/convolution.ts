import { elementCount } from '../../base/tensor.ts';
import type { AttributeValues } from '../../graph/build.ts';
import { NCHWC_DOMAIN } from '../../graph/domains.ts';
import type { Node } from '../../graph/model.ts';
import { type ConvGeometry, convGeometry } from '../../ops/conv-gradients.ts';
import { flip, pad, transpose } from '../../ops/emit.ts';
import { reach } from '../../ops/windows.ts';
import { type Channels, channelsOf, padAxes } from './channels.ts';
import { reorderWeight, squaresOf, takeRows } from './kernels.ts';
import { sumOfChannels } from './normalization.ts';
import type { Values } from './values.ts';

/** Y = Conv(X, W, B): waits for an Add and a Relu to take along. */
export function convolve(values: Values, node: Node): boolean {
  const [x, w, bias = ''] = node.inputs as [string, string, string?];
  const y = node.outputs[0]!;
  if (!values.isImage(x)) return false;
  const form = convGeometry(node, values.shape(x), values.shape(y), values.shape(w).slice(2));
  const kind = kindOf(form);
  if (kind === undefined) return false;
  const { build, block } = values;
  // An image of few channels (grey, colour) is read in plain layout.
  const isNarrow = kind === 'dense' && !values.isBlocked(x) && form.channels < block;
  const input = isNarrow ? undefined : values.blocked(x);
  const channels = kind === 'depthwise' ? input!.channels : channelsOf([form.filters], block);
  const rows = padAxes(
    build,
    values.plain(w),
    4,
    new Map([[0, channels], ...(kind === 'dense' && input ? [[1, input.channels] as const] : [])]),
  );
  const weight = reorderWeight(values, rows, {
    rows: channels.padded,
    columns: kind === 'depthwise' ? 1 : (input?.channels.padded ?? form.channels),
    kernel: form.windows.kernel,
    isDense: kind === 'dense' && !isNarrow,
  });
  const { strides, dilations, padsBegin, padsEnd } = form.windows;
  values.setPending(y, {
    channels,
    hasSum: false,
    finish: ({ sum, relu }) =>
      build.op(
        'Conv',
        [
          input?.value ?? values.plain(x),
          weight,
          bias === '' ? undefined : values.vector(bias, channels),
          sum,
        ],
        {
          ...blockedAttributes(kind, channels, form),
          strides,
          dilations,
          pads: [...padsBegin, ...padsEnd],
          ...(relu && { activation: 'Relu' }),
        },
        { domain: NCHWC_DOMAIN },
      ),
  });
  return true;
}

/** (dY, W, X) → dX. A factor for each channel of dY goes into the weights. */
export function convolveInputGradient(values: Values, node: Node): boolean {
  const [dy, w, x] = node.inputs as [string, string, string];
  const form = convGeometry(node, values.shape(x), values.shape(dy));
  const kind = kindOf(form);
  if (kind === undefined || (!values.isBlocked(dy) && !values.isBlocked(x))) return false;
  const inner = form.windows.kernel.map((size, i) => reach(size, form.windows.dilations[i]!) - 1);
  const begin = inner.map((size, i) => size - form.windows.padsBegin[i]!);
  if (begin.some((count) => count < 0)) return false;

  const { build } = values;
  const { value: g, channels: from, factors } = unscaled(values, dy);
  const to = kind === 'depthwise' ? from : values.channels(x);
  let weight = padAxes(
    build,
    values.plain(w),
    4,
    new Map(
      kind === 'depthwise'
        ? [[0, from]]
        : [
            [0, from],
            [1, to],
          ],
    ),
  );
  if (factors !== undefined) {
    const shape = [from.padded, kind === 'dense' ? to.padded : 1, ...form.windows.kernel];
    weight = scaleRows(values, weight, shape, factors);
  }
  const dx = node.outputs[0]!;
  if (kind === 'dense' && isHalving(form)) {
    values.setBlocked(dx, doubledGradient(values, form, g, weight, from, to), to);
    return true;
  }
  const ordered = reversedWeight(values, kind, weight, from, to, form.windows.kernel);
  const isStrided = form.windows.strides.some((stride) => stride > 1);
  if (isStrided && kind === 'dense' && inner.every((size, i) => size === 0 && begin[i] === 0)) {
    // A pointwise convolution with a stride touches few positions: multiply first, spread the results afterwards.
    const product = build.op('Conv', [g, ordered], { kernel_shape: [1, 1] }, { domain: NCHWC_DOMAIN });
    const spread = dilated(values, product, form, to);
    values.setBlocked(dx, cropped(values, spread.value, spread.size, form, to), to);
    return true;
  }
  const source = isStrided ? dilated(values, g, form, from) : { value: g, size: form.output };
  const end = inner.map((size, i) => form.input[i]! - source.size[i]! - begin[i]! + size);
  const cut = end.some((count) => count < 0)
    ? resized(
        values,
        source.value,
        source.size,
        form.batch,
        from,
        [0, 0],
        end.map((n) => Math.min(n, 0)),
      )
    : source.value;
  values.setPending(dx, {
    channels: to,
    hasSum: false,
    finish: ({ sum, relu }) =>
      build.op(
        'Conv',
        [cut, ordered, undefined, sum],
        {
          ...blockedAttributes(kind, to, form),
          dilations: form.windows.dilations,
          pads: [...begin, ...end.map((count) => Math.max(count, 0))],
          ...(relu && { activation: 'Relu' }),
        },
        { domain: NCHWC_DOMAIN },
      ),
  });
  return true;
}

export function sumChannels(values: Values, node: Node): boolean {
  const x = node.inputs[0]!;
  if (!values.isImage(x) || !values.isBlocked(x)) return false;
  const { value, channels } = values.blocked(x);
  const sums = sumOfChannels(values, value, values.shape(x));
  values.setPlain(node.outputs[0]!, values.unpadVector(sums, channels));
  return true;
}

export type Kind = 'dense' | 'depthwise';

/** Undefined: grouped in a way that the blocked layout does not have. */
export function kindOf({ group, channels, filters }: ConvGeometry): Kind | undefined {
  if (group === 1) return 'dense';
  return group === channels && group === filters ? 'depthwise' : undefined;
}

function blockedAttributes(kind: Kind, channels: Channels, form: ConvGeometry): AttributeValues {
  return { group: kind === 'depthwise' ? channels.padded : 1, kernel_shape: form.windows.kernel };
}

/** A blocked value without a factor that is still to be applied, and the factor of each slot. */
function unscaled(values: Values, name: string) {
  const scaled = values.scaled(name);
  return { ...values.blocked(scaled?.of ?? name), factors: scaled?.slots };
}

/** The kernel of the convolution back from O to I channels: turned by half a circle, its channel axes swapped. */
function reversedWeight(
  values: Values,
  kind: Kind,
  weight: string,
  from: Channels,
  to: Channels,
  kernel: readonly number[],
): string {
  const { build, block } = values;
  const positions = elementCount(kernel);
  if (kind === 'depthwise') {
    const turned = positions > 1 ? flip(build, weight, [2, 3]) : weight;
    return reorderWeight(values, turned, { rows: to.padded, columns: 1, kernel, isDense: false });
  }
  const [kh, kw] = kernel as [number, number];
  const squares = squaresOf(values, weight, [from.padded, to.padded, kh, kw]);
  const [rows, columns] = [from.padded / block, to.padded / block];
  const order = Array.from({ length: columns * rows * positions }, (_, i) => {
    const [column, row] = [Math.floor(i / positions / rows), Math.floor(i / positions) % rows];
    return (row * columns + column) * positions + positions - 1 - (i % positions);
  });
  return values.view(takeRows(build, squares, order, order.length), [to.padded, from.padded, kh, kw]);
}

/** Multiplies each row of [O, I, kh, kw] by its number. */
export function scaleRows(values: Values, weight: string, shape: readonly number[], factors: string): string {
  const { build } = values;
  const [rows, ...rest] = shape as [number, ...number[]];
  if (elementCount(shape.slice(2)) > 1) {
    return build.op('Mul', [weight, values.view(factors, [rows, ...rest.map(() => 1)])]);
  }
  // The engine's broadcasting takes axes of size 1 at the end one element at a time.
  const scaled = build.op('Mul', [
    values.view(weight, [rows, elementCount(rest)]),
    values.view(factors, [rows, 1]),
  ]);
  return values.view(scaled, shape);
}

/** 3×3 with stride 2 and padding 1, the usual way to halve an image. */
function isHalving({ windows, input, output }: ConvGeometry): boolean {
  const { kernel, strides, dilations, padsBegin } = windows;
  return [0, 1].every(
    (i) =>
      kernel[i] === 3 &&
      strides[i] === 2 &&
      dilations[i] === 1 &&
      padsBegin[i] === 1 &&
      output[i] === Math.ceil(input[i]! / 2),
  );
}

/**
 * dX of a halving convolution without multiplying by zeros. Row 2m of dX sees only kernel row 1 of output row m; row
 * 2m + 1 sees kernel row 2 of output row m and kernel row 0 of output row m + 1. So each of the four parities of
 * (row, column) is a 2×2 convolution of dY; all four are computed as one with 4·C filters, then interleaved.
 */
function doubledGradient(
  values: Values,
  form: ConvGeometry,
  g: string,
  weight: string,
  from: Channels,
  to: Channels,
): string {
  const { build, block } = values;
  const [height, width] = form.output;
  const squares = squaresOf(values, weight, [from.padded, to.padded, 3, 3]);
  const [rows, columns] = [from.padded / block, to.padded / block];
  const none = rows * columns * 9; // A square of zeros after all the others.
  const picked: number[] = [];
  for (const tapsDown of TAPS) {
    for (const tapsRight of TAPS) {
      for (let column = 0; column < columns; column++) {
        for (let row = 0; row < rows; row++) {
          for (const i of tapsDown) {
            for (const j of tapsRight) {
              const isTap = i !== undefined && j !== undefined;
              picked.push(isTap ? (row * columns + column) * 9 + i * 3 + j : none);
            }
          }
        }
      }
    }
  }
  const extended = pad(build, squares, [0, 0], [1, 0]);
  const kernel = takeRows(build, extended, picked, none + 1);
  const ordered = values.view(kernel, [4 * to.padded, from.padded, 2, 2]);
  const all = build.op(
    'Conv',
    [g, ordered],
    { kernel_shape: [2, 2], pads: [0, 0, 1, 1] },
    { domain: NCHWC_DOMAIN },
  );
  const split = values.view(all, [form.batch, 2, 2, to.padded / block, height, width, block]);
  const woven = transpose(build, split, [0, 3, 4, 1, 5, 2, 6]);
  const doubled = values.view(woven, [form.batch, to.padded, 2 * height, 2 * width]);
  return cropped(values, doubled, [2 * height, 2 * width], form, to);
}

/** The kernel rows that an even row of dX sees in output rows m and m + 1, then those of an odd one. */
const TAPS = [
  [1, undefined],
  [2, 0],
] as const;

/** Puts `stride − 1` zeros after each row and column of a blocked value of the output's size. */
function dilated(
  values: Values,
  x: string,
  { batch, output, windows }: ConvGeometry,
  { padded, block }: Channels,
): { readonly value: string; readonly size: readonly number[] } {
  const [height, width] = output;
  const [down, right] = windows.strides as [number, number];
  const apart = values.view(x, [(batch * padded) / block, height, 1, width, 1, block]);
  const spaced = pad(values.build, apart, [0, 0, 0, 0, 0, 0], [0, 0, down - 1, 0, right - 1, 0]);
  const size = [height * down, width * right];
  return { value: values.view(spaced, [batch, padded, ...size]), size };
}

/** A blocked value cut, or filled with zeros, at its ends to the size of the convolution's input. */
function cropped(
  values: Values,
  x: string,
  size: readonly number[],
  form: ConvGeometry,
  channels: Channels,
): string {
  const end = form.input.map((want, i) => want - size[i]!);
  return resized(values, x, size, form.batch, channels, [0, 0], end);
}

/** Adds (or, where negative, removes) rows and columns around a blocked value. */
export function resized(
  values: Values,
  x: string,
  size: readonly number[],
  batch: number,
  { padded, block }: Channels,
  begin: readonly number[],
  end: readonly number[],
): string {
  if ([...begin, ...end].every((count) => count === 0)) return x;
  const planes = values.view(x, [(batch * padded) / block, ...size, block]);
  const changed = pad(values.build, planes, [0, ...begin, 0], [0, ...end, 0]);
  return values.view(changed, [batch, padded, ...size.map((n, i) => n + begin[i]! + end[i]!)]);
}
