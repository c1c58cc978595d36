import { InvalidArgumentError } from '../../base/errors.ts';
import type { Backbone } from './backbone.ts';
import { type ResNetOptions, resNet } from './resnet.ts';

/** Backbones by name: the depths of He et al.'s CIFAR networks (6·blocks + 2), and a wide one for CPUs to chew on. */
export const BACKBONES = {
  'resnet-8': { widths: [16, 32, 64], blocksPerStage: [1, 1, 1] },
  'resnet-14': { widths: [16, 32, 64], blocksPerStage: [2, 2, 2] },
  'resnet-20': { widths: [16, 32, 64], blocksPerStage: [3, 3, 3] },
  'resnet-14-wide': { widths: [64, 128, 256], blocksPerStage: [2, 2, 2] },
} as const satisfies Record<string, ResNetOptions>;

/**
 * The backbone that a spec names: a name of `BACKBONES`, or `resnet:widths=64-128-256,blocks=2-2-2` with an optional
 * `,stride=2` for the first convolution.
 * @throws InvalidArgumentError naming what is wrong and what exists
 */
export function backbone(spec: string): Backbone {
  const named = Object.entries(BACKBONES).find(([name]) => name === spec);
  if (named !== undefined) return resNet(named[0], named[1]);
  if (spec.startsWith('resnet:')) return resNet(spec, parseResNet(spec));
  throw new InvalidArgumentError(
    `There is no backbone "${spec}". Known: ${Object.keys(BACKBONES).join(', ')}, and ` +
      '`resnet:widths=64-128-256,blocks=2-2-2`.',
  );
}

function parseResNet(spec: string): ResNetOptions {
  const fields = new Map<string, number[]>();
  for (const part of spec.slice('resnet:'.length).split(',')) {
    const [key, value] = part.split('=');
    const numbers = value?.split('-').map(Number) ?? [];
    if (
      !['widths', 'blocks', 'stride'].includes(key!) ||
      numbers.length === 0 ||
      numbers.some(Number.isNaN)
    ) {
      throw new InvalidArgumentError(
        `"${part}" in backbone "${spec}" should be widths=A-B-C, blocks=A-B-C or stride=A with numbers.`,
      );
    }
    fields.set(key!, numbers);
  }
  const widths = fields.get('widths') ?? [];
  return {
    widths,
    blocksPerStage: fields.get('blocks') ?? widths.map(() => 1),
    stemStride: fields.get('stride')?.[0] ?? 1,
  };
}
