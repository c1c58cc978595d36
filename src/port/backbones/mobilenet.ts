import { type Architecture, familyOf, STEM_FIELDS } from './family.ts';
import {
  add,
  convNorm,
  convNormRelu,
  type Features,
  halveByMax,
  type Network,
  roundWidth,
} from './layers.ts';
import { decimal, integer, type OptionsOf, optional } from './spec.ts';

const WIDTH_FIELDS = {
  width: optional('what all widths are multiplied with', decimal(0.01, 4), 1),
  multiple: optional('what widths are a multiple of', integer(1, 64), 8),
  ...STEM_FIELDS,
  // The published networks have none, for whatever images.
  pool: optional(STEM_FIELDS.pool.meaning, STEM_FIELDS.pool, 1),
};

/**
 * Networks of depthwise 3×3 and pointwise 1×1 convolutions, each with BN and Relu. Small images are not halved by the
 * first convolution, so that a 32×32 one ends at 2×2.
 * Source: Howard et al. 2017, "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
 * table 1.
 */
export const MOBILENET = familyOf('mobilenet', 'mobilenet:width=0.25', WIDTH_FIELDS, mobileNet);

/** Table 1: channels and stride of each pair of convolutions, and how often the pair is repeated. */
const PAIRS: readonly (readonly [channels: number, stride: number, repeats: number])[] = [
  [64, 1, 1],
  [128, 2, 1],
  [128, 1, 1],
  [256, 2, 1],
  [256, 1, 1],
  [512, 2, 1],
  [512, 1, 5],
  [1024, 2, 1],
  [1024, 1, 1],
];

function mobileNet({ width, multiple }: OptionsOf<typeof WIDTH_FIELDS>): Architecture {
  const scaled = (channels: number) => roundWidth(channels * width, multiple);
  return {
    strideAfterStem: product(PAIRS.map(([, stride]) => stride)),
    features(network, image, stem) {
      let x = stemOf(network, image, scaled(32), stem);
      let pair = 0;
      for (const [channels, stride, repeats] of PAIRS) {
        for (let i = 0; i < repeats; i++) {
          const name = `pair${++pair}`;
          const depthwise = { to: x.channels, kernel: 3, stride, group: x.channels };
          x = convNormRelu(network, `${name}/depthwise`, x, depthwise);
          x = convNormRelu(network, `${name}/pointwise`, x, { to: scaled(channels), kernel: 1 });
        }
      }
      return x;
    },
  };
}

const V2_FIELDS = {
  ...WIDTH_FIELDS,
  expansion: optional('how many times as wide a block is inside', integer(1, 16), 6),
};

/**
 * Networks of inverted residuals: a block widens its input, convolves depthwise and projects to few channels without
 * an activation, where shortcuts join. Activations are Relu, not the published Relu6, whose bound serves fixed-point
 * arithmetic with ranges that were not calibrated. Small images are not halved by the first convolution.
 * Source: Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", table 2.
 */
export const MOBILENET_V2 = familyOf('mobilenet-v2', 'mobilenet-v2:width=0.5', V2_FIELDS, mobileNetV2);

/** Table 2: whether the blocks widen their input, their channels, their number and the stride of the first. */
const STAGES: readonly (readonly [isWidened: boolean, channels: number, blocks: number, stride: number])[] = [
  [false, 16, 1, 1],
  [true, 24, 2, 2],
  [true, 32, 3, 2],
  [true, 64, 4, 2],
  [true, 96, 3, 1],
  [true, 160, 3, 2],
  [true, 320, 1, 1],
];
/** Channels of the last convolution, which narrow networks keep whole. */
const LAST_WIDTH = 1280;

function mobileNetV2({ width, multiple, expansion }: OptionsOf<typeof V2_FIELDS>): Architecture {
  const scaled = (channels: number) => roundWidth(channels * width, multiple);
  return {
    strideAfterStem: product(STAGES.map(([, , , stride]) => stride)),
    features(network, image, stem) {
      let x = stemOf(network, image, scaled(32), stem);
      for (const [stage, [isWidened, channels, blocks, first]] of STAGES.entries()) {
        for (let block = 0; block < blocks; block++) {
          x = invertedResidual(network, `stage${stage + 1}/block${block + 1}`, x, {
            to: scaled(channels),
            expansion: isWidened ? expansion : 1,
            stride: block === 0 ? first : 1,
          });
        }
      }
      const last = roundWidth(LAST_WIDTH * Math.max(1, width), multiple);
      return convNormRelu(network, 'last', x, { to: last, kernel: 1 });
    },
  };
}

function invertedResidual(
  network: Network,
  name: string,
  x: Features,
  { to, expansion, stride }: { readonly to: number; readonly expansion: number; readonly stride: number },
): Features {
  const inner = x.channels * expansion;
  let y = x;
  if (expansion > 1) y = convNormRelu(network, `${name}/expand`, y, { to: inner, kernel: 1 });
  y = convNormRelu(network, `${name}/depthwise`, y, { to: inner, kernel: 3, stride, group: inner });
  y = convNorm(network, `${name}/project`, y, { to, kernel: 1 });
  return stride === 1 && to === x.channels ? add(network, name, y, x) : y;
}

function stemOf(
  network: Network,
  image: Features,
  to: number,
  { stride, pool }: { readonly stride: number; readonly pool: number },
): Features {
  const x = convNormRelu(network, 'stem', image, { to, kernel: 3, stride });
  return pool > 1 ? halveByMax(network, 'stem', x) : x;
}

function product(factors: readonly number[]): number {
  return factors.reduce((all, factor) => all * factor, 1);
}
