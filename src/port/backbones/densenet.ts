import { InvalidArgumentError } from '../../base/errors.ts';
import { type Architecture, familyOf, STEM_FIELDS } from './family.ts';
import {
  concatenate,
  convolve,
  type Features,
  halveByMax,
  halveByMean,
  MAX_WIDTH,
  type Network,
  normalize,
  rectify,
  roundWidth,
} from './layers.ts';
import { automatic, decimal, integer, list, type OptionsOf, optional, required } from './spec.ts';

/** Layers of a dense block; the deepest published one has 82 (DenseNet-250 with bottlenecks). */
export const MAX_LAYERS = 128;

const FIELDS = {
  growth: required('channels that each layer adds', integer(1, 512)),
  layers: required('layers of each dense block', list(integer(1, MAX_LAYERS))),
  stem: automatic('channels of the first convolution', integer(1, MAX_WIDTH), 'twice the growth'),
  compression: optional('share of the channels that a transition keeps', decimal(0.01, 1), 0.5),
  bottleneck: optional(
    'channels of a 1×1 convolution before each 3×3 one, in multiples of the growth, 0 for none',
    integer(0, 16),
    0,
  ),
  multiple: optional('what the channels that a transition keeps are a multiple of', integer(1, 64), 1),
  ...STEM_FIELDS,
};

/**
 * Densely connected networks: each layer reads what all before it in its block have written. Between two blocks a
 * transition (BN-Relu, 1×1 convolution, mean of 2×2) compresses channels and halves the image.
 * Source: Huang et al. 2017, "Densely Connected Convolutional Networks", section 3 (the CIFAR form).
 */
export const DENSENET = familyOf('densenet', 'densenet:growth=16,layers=5-5-5', FIELDS, denseNet);

function denseNet(options: OptionsOf<typeof FIELDS>, spec: string): Architecture {
  const { growth, layers, stem: first = 2 * growth } = options;
  const compressed = (channels: number) =>
    options.multiple === 1
      ? Math.max(1, Math.floor(channels * options.compression))
      : roundWidth(channels * options.compression, options.multiple);
  checkWidths(spec, { first, growth, layers, compressed });
  return {
    strideAfterStem: 2 ** (layers.length - 1),
    features(network, image, stem) {
      let x = convolve(network, 'stem', image, { to: first, kernel: 3, stride: stem.stride });
      if (stem.pool > 1) x = halveByMax(network, 'stem', activate(network, 'stem', x));
      for (const [block, count] of layers.entries()) {
        if (block > 0) x = transition(network, `transition${block}`, x, compressed(x.channels));
        for (let layer = 0; layer < count; layer++) {
          x = denseLayer(network, `block${block + 1}/layer${layer + 1}`, x, options);
        }
      }
      return activate(network, 'final', x);
    },
  };
}

/** BN-Relu-Conv, after a bottleneck of BN-Relu-Conv 1×1 where there is one, beside what it read. */
function denseLayer(
  network: Network,
  name: string,
  x: Features,
  { growth, bottleneck }: Pick<OptionsOf<typeof FIELDS>, 'growth' | 'bottleneck'>,
): Features {
  let y = x;
  if (bottleneck > 0) {
    const narrow = `${name}/bottleneck`;
    y = convolve(network, narrow, activate(network, narrow, y), { to: bottleneck * growth, kernel: 1 });
  }
  y = convolve(network, name, activate(network, name, y), { to: growth, kernel: 3 });
  return concatenate(network, name, x, y);
}

function transition(network: Network, name: string, x: Features, to: number): Features {
  const y = convolve(network, name, activate(network, name, x), { to, kernel: 1 });
  return halveByMean(network, name, y);
}

function activate(network: Network, name: string, x: Features): Features {
  return rectify(network, name, normalize(network, name, x));
}

function checkWidths(
  spec: string,
  widths: {
    readonly first: number;
    readonly growth: number;
    readonly layers: readonly number[];
    readonly compressed: (channels: number) => number;
  },
): void {
  let channels = widths.first;
  for (const [block, count] of widths.layers.entries()) {
    channels = (block === 0 ? channels : widths.compressed(channels)) + count * widths.growth;
    if (channels <= MAX_WIDTH) continue;
    throw new InvalidArgumentError(
      `Block ${block + 1} of the backbone "${spec}" would end with ${channels} channels, of ${MAX_WIDTH} at most. ` +
        'Use a smaller growth, fewer layers or a smaller compression.',
    );
  }
}
