import { type Random, seededRandom } from '../../base/random.ts';
import { elementCount, float32Tensor, type Tensor } from '../../base/tensor.ts';
import { float } from '../../graph/attributes.ts';
import { GraphBuilder } from '../../graph/build.ts';
import { type BackboneOptions, NORMALIZE_MEAN, NORMALIZE_SCALE } from './backbone.ts';

/** A network that grows: every layer is named, and its initial weights depend on the seed and on that name alone. */
export interface Network {
  readonly build: GraphBuilder;
  readonly random: Random;
}

/** A value [N, channels, height, width] of the network. */
export interface Features {
  readonly value: string;
  readonly channels: number;
}

/** BatchNormalization's share of the old running average; short trainings need averages that forget quickly. */
export const BATCH_NORM_MOMENTUM = 0.9;
/** Keeps the division by a channel's deviation finite; the value every framework uses. */
export const BATCH_NORM_EPSILON = 1e-5;
/** Kernels between two layers of this width would hold 600 million weights, more than a typed array of floats should. */
export const MAX_WIDTH = 8192;

/** A network with its input, `image`, and the two nodes that normalise its pixels by channel. */
export function startNetwork(name: string, target: BackboneOptions): { network: Network; image: Features } {
  const [channels, height, width] = target.inputShape;
  const { mean, std } = target.normalization;
  const build = new GraphBuilder(name);
  const image = build.input('image', 'float32', ['N', channels, height, width]);
  const perChannel = [1, channels, 1, 1];
  build.initializer(NORMALIZE_MEAN, float32Tensor(perChannel, mean));
  const scale = std.map((deviation) => 1 / deviation);
  build.initializer(NORMALIZE_SCALE, float32Tensor(perChannel, scale));
  const centred = build.op('Sub', [image, NORMALIZE_MEAN], {}, { name: 'normalize/sub' });
  const value = build.op('Mul', [centred, NORMALIZE_SCALE], {}, { name: 'normalize/mul' });
  return { network: { build, random: seededRandom(target.seed) }, image: { value, channels } };
}

/** The mean of each channel, and a linear layer from there to the output `logits`. */
export function addHead({ build, random }: Network, x: Features, classes: number): void {
  const pooled = build.op('GlobalAveragePool', [x.value], {}, { name: 'head/pool' });
  const flat = build.op('Flatten', [pooled], { axis: 1 }, { name: 'head/flatten' });
  const weight = normalTensor([classes, x.channels], Math.sqrt(1 / x.channels), random.fork('head'));
  build.initializer('head/weight', weight);
  build.initializer('head/bias', float32Tensor([classes], new Float32Array(classes)));
  build.ops(
    'Gemm',
    [flat, 'head/weight', 'head/bias'],
    { transB: 1 },
    { name: 'head/gemm', outputs: ['logits'] },
  );
  build.output('logits', 'float32', ['N', classes]);
}

export interface ConvolutionOptions {
  /** Channels of the result. */
  readonly to: number;
  /** Side of the square kernel, odd. The image is padded by half of it. */
  readonly kernel: number;
  readonly stride?: number;
  readonly group?: number;
}

/**
 * `NAME/conv`, without a bias. Weights are normal with deviation √(2 / fan-in).
 * Source: He et al. 2015, "Delving Deep into Rectifiers", equation 10.
 */
export function convolve({ build, random }: Network, name: string, x: Features, options: ConvolutionOptions) {
  const { to, kernel, stride = 1, group = 1 } = options;
  const pad = (kernel - 1) / 2;
  const fanIn = (x.channels / group) * kernel * kernel;
  const shape = [to, x.channels / group, kernel, kernel];
  const weight = normalTensor(shape, Math.sqrt(2 / fanIn), random.fork(name));
  const value = build.op(
    'Conv',
    [x.value, build.initializer(`${name}/conv/weight`, weight)],
    {
      kernel_shape: [kernel, kernel],
      strides: [stride, stride],
      pads: [pad, pad, pad, pad],
      group: group === 1 ? undefined : group,
    },
    { name: `${name}/conv` },
  );
  return { value, channels: to };
}

/** `NAME/norm`: a BatchNormalization that starts with scale 1 and bias 0. */
export function normalize({ build }: Network, name: string, x: Features): Features {
  const filled = (parameter: string, value: number) =>
    build.initializer(
      `${name}/norm/${parameter}`,
      float32Tensor([x.channels], new Float32Array(x.channels).fill(value)),
    );
  const value = build.op(
    'BatchNormalization',
    [x.value, filled('scale', 1), filled('bias', 0), filled('mean', 0), filled('variance', 1)],
    { epsilon: float(BATCH_NORM_EPSILON), momentum: float(BATCH_NORM_MOMENTUM) },
    { name: `${name}/norm` },
  );
  return { value, channels: x.channels };
}

/** `NAME/relu`. */
export function rectify({ build }: Network, name: string, x: Features): Features {
  return { ...x, value: build.op('Relu', [x.value], {}, { name: `${name}/relu` }) };
}

/** Conv-BN. */
export function convNorm(network: Network, name: string, x: Features, options: ConvolutionOptions): Features {
  return normalize(network, name, convolve(network, name, x, options));
}

/** Conv-BN-Relu. */
export function convNormRelu(network: Network, name: string, x: Features, options: ConvolutionOptions) {
  return rectify(network, name, convNorm(network, name, x, options));
}

/** `NAME/add`: the sum of two values of one shape. */
export function add({ build }: Network, name: string, a: Features, b: Features): Features {
  return { ...a, value: build.op('Add', [a.value, b.value], {}, { name: `${name}/add` }) };
}

/** `NAME/concat`: the channels of both. */
export function concatenate({ build }: Network, name: string, a: Features, b: Features): Features {
  const value = build.op('Concat', [a.value, b.value], { axis: 1 }, { name: `${name}/concat` });
  return { value, channels: a.channels + b.channels };
}

/** `NAME/pool`: the mean of windows of 2×2; a last odd row or column is dropped. */
export function halveByMean({ build }: Network, name: string, x: Features): Features {
  const windows = { kernel_shape: [2, 2], strides: [2, 2] };
  return { ...x, value: build.op('AveragePool', [x.value], windows, { name: `${name}/pool` }) };
}

/** `NAME/pool`: the maximum of windows of 3×3, two pixels apart. */
export function halveByMax({ build }: Network, name: string, x: Features): Features {
  const windows = { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] };
  return { ...x, value: build.op('MaxPool', [x.value], windows, { name: `${name}/pool` }) };
}

/**
 * The multiple of `multiple` that is nearest to a width, at least one of them and never below 90 % of the width.
 * Source: Sandler et al. 2018, the rounding of the published MobileNets' code.
 */
export function roundWidth(width: number, multiple: number): number {
  const nearest = Math.max(multiple, Math.floor((width + multiple / 2) / multiple) * multiple);
  return nearest < 0.9 * width ? nearest + multiple : nearest;
}

function normalTensor(shape: readonly number[], deviation: number, random: Random): Tensor {
  const data = new Float32Array(elementCount(shape));
  for (let i = 0; i < data.length; i++) data[i] = deviation * random.normal();
  return float32Tensor(shape, data);
}
