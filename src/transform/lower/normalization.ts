import { floatAttribute } from '../../graph/attributes.ts';
import { NCHWC_DOMAIN } from '../../graph/domains.ts';
import type { Node } from '../../graph/model.ts';
import { DEFAULT_EPSILON, gradientFactors, spread } from '../../ops/batch-normalization.ts';
import { reduceSum } from '../../ops/emit.ts';
import type { Channels } from './channels.ts';
import type { Values } from './values.ts';

/** (x, scale, B) → (y, mean, variance, rstd). The scaling itself waits for an Add and a Relu to take along. */
export function normalize(values: Values, node: Node): boolean {
  const [x, scale, shift] = node.inputs as [string, string, string];
  const [y, ...statistics] = node.outputs as [string, string, string, string];
  if (!values.isImage(x) || !values.isBlocked(x)) return false;
  const { build } = values;
  const { value, channels } = values.blocked(x);
  const shape = values.shape(x);
  const inverse = build.scalar(1 / countOf(shape));
  const mean = build.op('Mul', [sumOfChannels(values, value, shape, channels), inverse]);
  const square = build.op('Mul', [dotOfChannels(values, value, value, shape, channels), inverse]);
  const { variance, rstd } = spread(build, mean, square, floatAttribute(node, 'epsilon', DEFAULT_EPSILON));
  for (const [i, vector] of [mean, variance, rstd].entries()) {
    values.setPlain(statistics[i]!, values.unpadVector(vector, channels));
  }
  // y = A·x + B with A = scale · rstd, B = shift − mean · A. Padding has scale 0, so that A = B = 0 there.
  const a = build.op('Mul', [values.vector(scale, channels), rstd]);
  const b = build.op('Sub', [values.vector(shift, channels), build.op('Mul', [mean, a])]);
  values.setPending(y, {
    channels,
    hasSum: false,
    finish: (fused) => scaleChannels(values, value, channels, a, { shift: b, ...fused }),
  });
  return true;
}

/** (dy, x, scale, mean, rstd) → (dx, dscale, dB), dx = A · (dy + b·x + c) with the factor A = scale · rstd held back. */
export function normalizeGradient(values: Values, node: Node): boolean {
  const [dy, x, scale, mean, rstd] = node.inputs as [string, string, string, string, string];
  const [dx, dScale, dShift] = node.outputs as [string, string, string];
  if (!values.isImage(x) || !values.isBlocked(x)) return false;
  const { build } = values;
  const { value, channels } = values.blocked(x);
  const shape = values.shape(x);
  const g = values.blocked(dy, channels).value;
  const sums = {
    dB: sumOfChannels(values, g, shape, channels),
    dot: dotOfChannels(values, g, value, shape, channels),
    mean: values.vector(mean, channels),
    rstd: values.vector(rstd, channels),
    count: countOf(shape),
  };
  const { dScale: slope, b, c } = gradientFactors(build, sums);
  values.setPlain(dScale, values.unpadVector(slope, channels));
  values.setPlain(dShift, values.unpadVector(sums.dB, channels));
  if (values.uses(dx) === 0) return true;
  const inner = values.alias(dx, scaleChannels(values, value, channels, b, { shift: c, sum: g }), channels);
  const a = build.op('Mul', [values.plain(scale), values.plain(rstd)]);
  values.setPending(dx, {
    channels,
    hasSum: false,
    scaled: { of: inner, scale: a },
    finish: (fused) =>
      scaleChannels(values, values.blocked(inner).value, channels, values.padVector(a, channels), fused),
  });
  return true;
}

/** Relu(scale · x + shift + sum) for each channel, in one pass: a depthwise 1×1 convolution. */
export function scaleChannels(
  values: Values,
  x: string,
  { padded }: Channels,
  scale: string,
  more: { readonly shift?: string; readonly sum?: string; readonly relu?: boolean },
): string {
  return values.build.op(
    'Conv',
    [x, values.view(scale, [padded, 1, 1, 1]), more.shift, more.sum],
    { group: padded, kernel_shape: [1, 1], ...(more.relu && { activation: 'Relu' }) },
    { domain: NCHWC_DOMAIN },
  );
}

/** Σ x for each slot of a blocked value. */
export function sumOfChannels(
  values: Values,
  x: string,
  [batch, , height, width]: readonly number[],
  { padded, block }: Channels,
): string {
  // Rows first, images second: one reduction over both runs several times slower.
  const blocks = values.view(x, [batch!, padded / block, height! * width!, block]);
  const { build } = values;
  return values.view(reduceSum(build, reduceSum(build, blocks, [2]), [0]), [padded]);
}

/** Σ x·y for each slot: each plane of x convolved with the same plane of y as its kernel. */
function dotOfChannels(
  values: Values,
  x: string,
  y: string,
  [batch, , height, width]: readonly number[],
  { padded }: Channels,
): string {
  const planes = batch! * padded;
  const dots = values.build.op(
    'Conv',
    [values.view(x, [1, planes, height!, width!]), values.view(y, [planes, 1, height!, width!])],
    { group: planes, kernel_shape: [height!, width!] },
    { domain: NCHWC_DOMAIN },
  );
  return reduceSum(values.build, values.view(dots, [batch!, padded]), [0]);
}

function countOf([batch, , height, width]: readonly number[]): number {
  return batch! * height! * width!;
}
