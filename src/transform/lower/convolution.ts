import { elementCount } from '../../base/tensor.ts';
import type { AttributeValues } from '../../graph/build.ts';
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
import { type Channels, channelsOf, isPaddedAtEnd, padAxes, unpadAxes } from './channels.ts';
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
  const { value: g, channels: from, scale } = unscaled(values, dy);
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
  if (scale !== undefined) {
    const factors = values.view(values.padVector(scale, from), [from.padded, 1, 1, 1]);
    weight = build.op('Mul', [weight, factors]);
  }
  const dx = node.outputs[0]!;
  if (kind === 'dense' && isHalving(form)) {
    values.setBlocked(dx, doubledGradient(values, form, g, weight, from, to), to);
    return true;
  }
  if (elementCount(form.windows.kernel) > 1) weight = flip(build, weight, [2, 3]);
  if (kind === 'dense') weight = transpose(build, weight, [1, 0, 2, 3]);
  const ordered = reorderWeight(values, weight, {
    rows: to.padded,
    columns: kind === 'depthwise' ? 1 : from.padded,
    kernel: form.windows.kernel,
    isDense: kind === 'dense',
  });
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

/** (X, dY) → dW, plain. A factor for each channel of dY is applied to dW. */
export function convolveWeightGradient(values: Values, node: Node): boolean {
  const [x, dy] = node.inputs as [string, string];
  const form = convGeometry(node, values.shape(x), values.shape(dy));
  const kind = kindOf(form);
  if (kind === undefined || !values.isBlocked(dy)) return false;
  const { build, block } = values;
  const { scale, of = dy } = values.scaled(dy) ?? {};
  const isPointwise = kind === 'dense' && elementCount(form.windows.kernel) === 1;
  const gradient =
    isPointwise || (kind === 'dense' && form.batch % block !== 0)
      ? weightGradient(build, form, values.plain(x), values.plain(of), chooseWeightGradient(form))
      : kind === 'depthwise'
        ? depthwiseWeightGradient(values, form, x, of)
        : denseWeightGradient(values, form, x, of);
  const factors = scale === undefined ? undefined : values.view(scale, [form.filters, 1, 1, 1]);
  values.setPlain(node.outputs[0]!, factors ? build.op('Mul', [gradient, factors]) : gradient);
  return true;
}

export function sumChannels(values: Values, node: Node): boolean {
  const x = node.inputs[0]!;
  if (!values.isImage(x) || !values.isBlocked(x)) return false;
  const { value, channels } = values.blocked(x);
  const sums = sumOfChannels(values, value, values.shape(x), channels);
  values.setPlain(node.outputs[0]!, values.unpadVector(sums, channels));
  return true;
}

type Kind = 'dense' | 'depthwise';

/** Undefined: grouped in a way that the blocked layout does not have. */
function kindOf({ group, channels, filters }: ConvGeometry): Kind | undefined {
  if (group === 1) return 'dense';
  return group === channels && group === filters ? 'depthwise' : undefined;
}

function blockedAttributes(kind: Kind, channels: Channels, form: ConvGeometry): AttributeValues {
  return { group: kind === 'depthwise' ? channels.padded : 1, kernel_shape: form.windows.kernel };
}

/** A blocked value without a factor that is still to be applied, and the factor (plain, logical channels). */
function unscaled(values: Values, name: string) {
  const scaled = values.scaled(name);
  return { ...values.blocked(scaled?.of ?? name), scale: scaled?.scale };
}

/**
 * [O, I, kh, kw] in the order of the blocked kernels, under the same shape: dense OIHW-block-block, memory
 * [O/b, I/b, kh, kw, b(I), b(O)]; else (depthwise, or a plain input of few channels) [O/b, I, kh, kw, b(O)].
 */
function reorderWeight(
  values: Values,
  weight: string,
  form: {
    readonly rows: number;
    readonly columns: number;
    readonly kernel: readonly number[];
    readonly isDense: boolean;
  },
): string {
  const { build, block } = values;
  const { rows, columns, kernel, isDense } = form;
  const split = values.view(weight, [
    rows / block,
    block,
    ...(isDense ? [columns / block, block] : [columns]),
    ...kernel,
  ]);
  const moved = transpose(build, split, isDense ? [0, 2, 4, 5, 3, 1] : [0, 2, 3, 4, 1]);
  return values.view(moved, [rows, columns, ...kernel]);
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
  const swapped = transpose(build, weight, [1, 0, 2, 3]);
  // Kernel indices [1, none, 2, 0]: taps (m, m + 1) of an even row, then of an odd one.
  const taps = build.ints([1, 3, 2, 0]);
  const extended = pad(build, swapped, [0, 0, 0, 0], [0, 0, 1, 1]);
  const picked = build.op('Gather', [build.op('Gather', [extended, taps], { axis: 2 }), taps], { axis: 3 });
  const parities = transpose(
    build,
    values.view(picked, [to.padded, from.padded, 2, 2, 2, 2]),
    [2, 4, 0, 1, 3, 5],
  );
  const ordered = reorderWeight(values, values.view(parities, [4 * to.padded, from.padded, 2, 2]), {
    rows: 4 * to.padded,
    columns: from.padded,
    kernel: [2, 2],
    isDense: true,
  });
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
function resized(
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

/**
 * dW[o,c,i,j] = Σₙ Σ over positions of X[n,c,·] · dY[n,o,·] is itself a convolution: channels of X are the images,
 * the batch is the channels, dY is the kernel, as large as the output and dilated by the stride.
 */
function denseWeightGradient(values: Values, form: ConvGeometry, x: string, dy: string): string {
  const { build, block } = values;
  const { batch, output, windows } = form;
  const [kh, kw] = windows.kernel as [number, number];
  const { value: g, channels: rows } = values.blocked(dy);
  const input = values.isBlocked(x) ? values.blocked(x) : undefined;
  // Padding at the end is dropped on the way; padding in between is carried along.
  const isWhole = input !== undefined && !isPaddedAtEnd(input.channels);
  const columns = isWhole ? input.channels.padded : form.channels;
  const source =
    input === undefined
      ? values.plain(x)
      : build.op('ReorderOutput', [input.value], { channels: columns }, { domain: NCHWC_DOMAIN });
  const images = build.op(
    'ReorderInput',
    [transpose(build, source, [1, 0, 2, 3])],
    {},
    { domain: NCHWC_DOMAIN },
  );
  // Padding by the convolution's own attribute is about twice as slow.
  const around = paddingForWeights(form);
  const padded = pad(
    build,
    values.view(images, [(columns * batch) / block, ...form.input, block]),
    [0, ...around.begin, 0],
    [0, ...around.end, 0],
  );
  const size = form.input.map((n, i) => n + around.begin[i]! + around.end[i]!);
  const kernel = transpose(
    build,
    values.view(g, [batch / block, block, rows.padded / block, elementCount(output), block]),
    [2, 0, 3, 1, 4],
  );
  const product = build.op(
    'Conv',
    [values.view(padded, [columns, batch, ...size]), values.view(kernel, [rows.padded, batch, ...output])],
    { kernel_shape: output, dilations: windows.strides, strides: windows.dilations },
    { domain: NCHWC_DOMAIN },
  );
  const gathered = transpose(
    build,
    values.view(product, [columns, rows.padded / block, kh, kw, block]),
    [1, 4, 0, 2, 3],
  );
  return unpadAxes(
    build,
    values.view(gathered, [rows.padded, columns, kh, kw]),
    new Map([[0, rows], ...(isWhole ? [[1, input.channels] as const] : [])]),
  );
}

/** Each plane of X with the same plane of dY as its kernel, summed over the batch. */
function depthwiseWeightGradient(values: Values, form: ConvGeometry, x: string, dy: string): string {
  const { build, block } = values;
  const { batch, output, windows } = form;
  const [kh, kw] = windows.kernel as [number, number];
  const { value: g, channels } = values.blocked(dy);
  const around = paddingForWeights(form);
  const seen = resized(
    values,
    values.blocked(x, channels).value,
    form.input,
    batch,
    channels,
    around.begin,
    around.end,
  );
  const size = form.input.map((n, i) => n + around.begin[i]! + around.end[i]!);
  const planes = batch * channels.padded;
  const product = build.op(
    'Conv',
    [values.view(seen, [1, planes, ...size]), values.view(g, [planes, 1, ...output])],
    { group: planes, kernel_shape: output, dilations: windows.strides, strides: windows.dilations },
    { domain: NCHWC_DOMAIN },
  );
  const sum = reduceSum(build, values.view(product, [batch, channels.padded / block, kh, kw, block]), [0]);
  const ordered = values.view(transpose(build, sum, [0, 3, 1, 2]), [channels.padded, 1, kh, kw]);
  return unpadAxes(build, ordered, new Map([[0, channels]]));
}

/** What to add around X (or cut off) so that a kernel of the output's size, dilated by the stride, has k×k positions. */
function paddingForWeights({ input, output, windows }: ConvGeometry): {
  readonly begin: readonly number[];
  readonly end: readonly number[];
} {
  const begin = windows.padsBegin;
  const end = input.map((size, i) => {
    const needed = reach(windows.kernel[i]!, windows.dilations[i]!) + (output[i]! - 1) * windows.strides[i]!;
    return needed - size - begin[i]!;
  });
  return { begin, end };
}
