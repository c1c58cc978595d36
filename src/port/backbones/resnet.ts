import { InvalidArgumentError } from '../../base/errors.ts';
import { type Random, seededRandom } from '../../base/random.ts';
import { elementCount, float32Tensor, type Tensor } from '../../base/tensor.ts';
import { float } from '../../graph/attributes.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import {
  BACKBONE_METADATA_KEY,
  type Backbone,
  type BackboneOptions,
  NORMALIZE_MEAN,
  NORMALIZE_SCALE,
} from './backbone.ts';

export interface ResNetOptions {
  /** Channels of each stage. */
  readonly widths: readonly number[];
  /** Basic blocks (two 3×3 convolutions and a shortcut) of each stage. */
  readonly blocksPerStage: readonly number[];
  /** Stride of the first convolution. Default 1. */
  readonly stemStride?: number;
}

/** BatchNormalization's share of the old running average; short trainings need averages that forget quickly. */
export const BATCH_NORM_MOMENTUM = 0.9;
/** Kernels between two stages of this width would hold 600 million weights, more than a typed array of floats should. */
export const MAX_WIDTH = 8192;
/** Keeps the division by a channel's deviation finite; the value every framework uses. */
export const BATCH_NORM_EPSILON = 1e-5;

/**
 * A residual network of basic blocks. Each stage but the first halves the image and starts with a projected shortcut.
 * Weights are He-normal by fan-in; scales of BatchNormalization are 1.
 * Source: He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2 (the CIFAR form).
 * @throws InvalidArgumentError for empty, unequal or non-positive stages
 */
export function resNet(name: string, options: ResNetOptions): Backbone {
  const { widths, blocksPerStage, stemStride = 1 } = options;
  const positive = [...widths, ...blocksPerStage, stemStride].every(
    (n) => Number.isInteger(n) && n > 0 && n <= MAX_WIDTH,
  );
  if (widths.length === 0 || widths.length !== blocksPerStage.length || !positive) {
    throw new InvalidArgumentError(
      `A ResNet needs one width and block count from 1 to ${MAX_WIDTH} for each stage, got widths ${widths.join('-')} ` +
        `and blocks ${blocksPerStage.join('-')}.`,
    );
  }
  return { name, build: (shape) => buildResNet(name, { widths, blocksPerStage, stemStride }, shape) };
}

function buildResNet(name: string, options: Required<ResNetOptions>, target: BackboneOptions) {
  const [channels, height, width] = target.inputShape;
  const { mean, std } = target.normalization;
  if (mean.length !== channels || std.length !== channels) {
    throw new InvalidArgumentError(
      `The normalisation has ${mean.length} means and ${std.length} deviations for ${channels} channels.`,
    );
  }
  const b = new GraphBuilder(name);
  const random = seededRandom(target.seed);
  const image = b.input('image', 'float32', ['N', channels, height, width]);
  b.initializer(NORMALIZE_MEAN, float32Tensor([1, channels, 1, 1], mean));
  b.initializer(
    NORMALIZE_SCALE,
    float32Tensor(
      [1, channels, 1, 1],
      std.map((deviation) => 1 / deviation),
    ),
  );
  const centred = b.op('Sub', [image, NORMALIZE_MEAN], {}, { name: 'normalize/sub' });
  const normalized = b.op('Mul', [centred, NORMALIZE_SCALE], {}, { name: 'normalize/mul' });

  let x = convNorm(b, random, 'stem', normalized, channels, options.widths[0]!, 3, options.stemStride);
  x = b.op('Relu', [x], {}, { name: 'stem/relu' });
  let inChannels = options.widths[0]!;
  options.widths.forEach((outChannels, stage) => {
    for (let block = 0; block < options.blocksPerStage[stage]!; block++) {
      const stride = stage > 0 && block === 0 ? 2 : 1;
      x = basicBlock(b, random, `stage${stage + 1}/block${block + 1}`, x, inChannels, outChannels, stride);
      inChannels = outChannels;
    }
  });
  const pooled = b.op('GlobalAveragePool', [x], {}, { name: 'head/pool' });
  const flat = b.op('Flatten', [pooled], { axis: 1 }, { name: 'head/flatten' });
  const weight = normalTensor([target.classes, inChannels], Math.sqrt(1 / inChannels), random.fork('head'));
  b.initializer('head/weight', weight);
  b.initializer('head/bias', float32Tensor([target.classes], new Float32Array(target.classes)));
  b.ops(
    'Gemm',
    [flat, 'head/weight', 'head/bias'],
    { transB: 1 },
    { name: 'head/gemm', outputs: ['logits'] },
  );
  b.output('logits', 'float32', ['N', target.classes]);

  const made = {
    name,
    ...options,
    inputShape: target.inputShape,
    classes: target.classes,
    seed: target.seed,
  };
  return modelOf(b.finish(), { metadata: { [BACKBONE_METADATA_KEY]: JSON.stringify(made) } });
}

/** Conv-BN-Relu-Conv-BN beside a shortcut, added, then Relu. The shortcut is projected where the shape changes. */
function basicBlock(
  b: GraphBuilder,
  random: Random,
  name: string,
  x: string,
  inChannels: number,
  outChannels: number,
  stride: number,
): string {
  const first = convNorm(b, random, `${name}/1`, x, inChannels, outChannels, 3, stride);
  const active = b.op('Relu', [first], {}, { name: `${name}/1/relu` });
  const second = convNorm(b, random, `${name}/2`, active, outChannels, outChannels, 3, 1);
  const shortcut =
    stride === 1 && inChannels === outChannels
      ? x
      : convNorm(b, random, `${name}/shortcut`, x, inChannels, outChannels, 1, stride);
  const sum = b.op('Add', [second, shortcut], {}, { name: `${name}/add` });
  return b.op('Relu', [sum], {}, { name: `${name}/relu` });
}

function convNorm(
  b: GraphBuilder,
  random: Random,
  name: string,
  x: string,
  inChannels: number,
  outChannels: number,
  kernel: number,
  stride: number,
): string {
  const pad = (kernel - 1) / 2;
  const fanIn = inChannels * kernel * kernel;
  const shape = [outChannels, inChannels, kernel, kernel];
  const w = b.initializer(
    `${name}/conv/weight`,
    normalTensor(shape, Math.sqrt(2 / fanIn), random.fork(name)),
  );
  const y = b.op(
    'Conv',
    [x, w],
    { kernel_shape: [kernel, kernel], strides: [stride, stride], pads: [pad, pad, pad, pad] },
    { name: `${name}/conv` },
  );
  const filled = (value: number) => float32Tensor([outChannels], new Float32Array(outChannels).fill(value));
  const statistics = [
    b.initializer(`${name}/norm/scale`, filled(1)),
    b.initializer(`${name}/norm/bias`, filled(0)),
    b.initializer(`${name}/norm/mean`, filled(0)),
    b.initializer(`${name}/norm/variance`, filled(1)),
  ];
  return b.op(
    'BatchNormalization',
    [y, ...statistics],
    { epsilon: float(BATCH_NORM_EPSILON), momentum: float(BATCH_NORM_MOMENTUM) },
    { name: `${name}/norm` },
  );
}

function normalTensor(shape: readonly number[], deviation: number, random: Random): Tensor {
  const data = new Float32Array(elementCount(shape));
  for (let i = 0; i < data.length; i++) data[i] = deviation * random.normal();
  return float32Tensor(shape, data);
}
