import { InvalidArgumentError } from '../../base/errors.ts';
import { type Architecture, familyOf, STEM_FIELDS } from './family.ts';
import {
  add,
  convNorm,
  convNormRelu,
  type Features,
  halveByMax,
  MAX_WIDTH,
  type Network,
  rectify,
} from './layers.ts';
import { automatic, integer, list, type OptionsOf, required } from './spec.ts';

/** Blocks of a stage; the deepest published network of this form has 18 (ResNet-110), or 200 (ResNet-1202). */
export const MAX_BLOCKS = 256;

const FIELDS = {
  widths: required('channels of each stage', list(integer(1, MAX_WIDTH))),
  blocks: automatic(
    'blocks of each stage, of two convolutions and a shortcut each',
    list(integer(1, MAX_BLOCKS)),
    '1 each',
  ),
  ...STEM_FIELDS,
};

/**
 * Residual networks of basic blocks. Each stage but the first halves the image and starts with a projected shortcut.
 * Source: He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2 (the CIFAR form).
 */
export const RESNET = familyOf('resnet', 'resnet:widths=16-32-64,blocks=1-1-1', FIELDS, resNet);

function resNet(options: OptionsOf<typeof FIELDS>, spec: string): Architecture {
  const { widths, blocks = widths.map(() => 1) } = options;
  if (widths.length !== blocks.length) {
    throw new InvalidArgumentError(
      `The backbone "${spec}" needs as many blocks as widths, one for each stage; got widths ${widths.join('-')} ` +
        `and blocks ${blocks.join('-')}.`,
    );
  }
  return {
    strideAfterStem: 2 ** (widths.length - 1),
    features(network, image, stem) {
      let x = convNormRelu(network, 'stem', image, { to: widths[0]!, kernel: 3, stride: stem.stride });
      if (stem.pool > 1) x = halveByMax(network, 'stem', x);
      for (const [stage, to] of widths.entries()) {
        for (let block = 0; block < blocks[stage]!; block++) {
          const stride = stage > 0 && block === 0 ? 2 : 1;
          x = basicBlock(network, `stage${stage + 1}/block${block + 1}`, x, to, stride);
        }
      }
      return x;
    },
  };
}

/** Conv-BN-Relu-Conv-BN beside a shortcut, added, then Relu. The shortcut is projected where the shape changes. */
function basicBlock(network: Network, name: string, x: Features, to: number, stride: number): Features {
  const first = convNormRelu(network, `${name}/1`, x, { to, kernel: 3, stride });
  const second = convNorm(network, `${name}/2`, first, { to, kernel: 3 });
  const isSame = stride === 1 && x.channels === to;
  const shortcut = isSame ? x : convNorm(network, `${name}/shortcut`, x, { to, kernel: 1, stride });
  return rectify(network, name, add(network, name, second, shortcut));
}
