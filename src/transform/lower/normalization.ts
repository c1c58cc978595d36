import { floatAttribute } from '../../graph/attributes.ts';
import type { GraphBuilder } from '../../graph/build.ts';
import { NCHWC_DOMAIN } from '../../graph/domains.ts';
import type { Node } from '../../graph/model.ts';
import { DEFAULT_EPSILON, gradientFactors, spread } from '../../ops/batch-normalization.ts';
import { reduceSum } from '../../ops/emit.ts';
import type { Channels } from './channels.ts';
import type { Moments, Values } from './values.ts';

/** (x, scale, B) → (y, mean, variance, rstd). The scaling itself waits for an Add and a Relu to take along. */
export function normalize(values: Values, node: Node): boolean {
  const [x, scale, shift] = node.inputs as [string, string, string];
  const [y, ...statistics] = node.outputs as [string, string, string, string];
  if (!values.isImage(x) || !values.isBlocked(x)) return false;
  const { build } = values;
  const { value, channels } = values.blocked(x);
  const { mean, square } = momentsOf(values, x);
  const { variance, rstd } = spread(build, mean, square, floatAttribute(node, 'epsilon', DEFAULT_EPSILON));
  for (const [i, vector] of [mean, variance, rstd].entries()) {
    values.setVector(statistics[i]!, vector, channels);
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

/**
 * E[x] and E[x²] for each slot. Those of branches side by side are those of the branches, which in a dense block have
 * been asked for before, all but the last one's.
 */
function momentsOf(values: Values, x: string): Moments {
  const known = values.moments.get(x);
  if (known !== undefined) return known;
  const { build } = values;
  const parts = values.parts(x);
  const moments =
    parts === undefined ? measuredMoments(values, x) : joined(parts.map((part) => momentsOf(values, part)));
  values.moments.set(x, moments);
  return moments;

  function joined(all: readonly Moments[]): Moments {
    const join = (vectors: readonly string[]) => build.op('Concat', vectors, { axis: 0 });
    return { mean: join(all.map(({ mean }) => mean)), square: join(all.map(({ square }) => square)) };
  }
}

function measuredMoments(values: Values, x: string): Moments {
  const { build } = values;
  const { value, channels } = values.blocked(x);
  const shape = values.shape(x);
  const mean = build.op('ReduceMean', [meansOfPlanes(build, value)], { axes: [0, 2, 3], keepdims: 0 });
  const dots = dotOfChannels(values, value, value, shape, channels);
  return { mean, square: build.op('Mul', [dots, build.scalar(1 / countOf(shape))]) };
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
    dB: sumOfChannels(values, g, shape),
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
  const a = build.op('Mul', [values.vector(scale, channels), sums.rstd]);
  values.setPending(dx, {
    channels,
    hasSum: false,
    scaled: { of: inner, slots: a },
    finish: (fused) => scaleChannels(values, values.blocked(inner).value, channels, a, fused),
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
export function sumOfChannels({ build }: Values, x: string, shape: readonly number[]): string {
  const sums = reduceSum(build, meansOfPlanes(build, x), [0, 2, 3]);
  return build.op('Mul', [sums, build.scalar(shape[2]! * shape[3]!)]);
}

/** The mean of each image's channels, [N, slots, 1, 1]; the pooling is faster than a reduction over two of its axes. */
function meansOfPlanes(build: GraphBuilder, x: string): string {
  return build.op('GlobalAveragePool', [x], {}, { domain: NCHWC_DOMAIN });
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
