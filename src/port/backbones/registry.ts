import { InvalidArgumentError } from '../../base/errors.ts';
import type { Backbone } from './backbone.ts';
import { DENSENET } from './densenet.ts';
import type { Family } from './family.ts';
import { MOBILENET, MOBILENET_V2 } from './mobilenet.ts';
import { RESNET } from './resnet.ts';

export const FAMILIES: readonly Family[] = [RESNET, DENSENET, MOBILENET, MOBILENET_V2];

/**
 * Backbones by name, with the spec that each stands for: published networks by their depth or width, and of every
 * family a small and a medium one for CPUs, with channels in multiples of 16 (a block of the engine's layout).
 */
export const BACKBONES = {
  'resnet-8': 'resnet:widths=16-32-64,blocks=1-1-1',
  'resnet-14': 'resnet:widths=16-32-64,blocks=2-2-2',
  'resnet-20': 'resnet:widths=16-32-64,blocks=3-3-3',
  'resnet-32': 'resnet:widths=16-32-64,blocks=5-5-5',
  'resnet-56': 'resnet:widths=16-32-64,blocks=9-9-9',
  'resnet-14-wide': 'resnet:widths=64-128-256,blocks=2-2-2',
  'resnet-small': 'resnet:widths=16-32-64,blocks=3-3-3',
  'resnet-medium': 'resnet:widths=32-64-128,blocks=3-3-3',
  'densenet-40': 'densenet:growth=12,layers=12-12-12,stem=16,compression=1',
  'densenet-small': 'densenet:growth=16,layers=5-5-5,multiple=16',
  'densenet-medium': 'densenet:growth=32,layers=4-4-4,multiple=16',
  'mobilenet-0.25': 'mobilenet:width=0.25',
  'mobilenet-small': 'mobilenet:width=0.5,multiple=16',
  'mobilenet-medium': 'mobilenet:width=1,multiple=16',
  'mobilenet-v2': 'mobilenet-v2:width=1',
} as const satisfies Record<string, string>;

/** What a spec may be, in one sentence. */
export const BACKBONE_HELP =
  `${Object.keys(BACKBONES).join(', ')}, or a family with options of its own: ` +
  FAMILIES.map(({ example }) => example).join('; ');

/**
 * The backbone that a spec names: a name of `BACKBONES` (`resnet20` and `ResNet-20` are the same), or a family with its
 * options, such as `resnet:widths=64-128-256,blocks=2-2-2`.
 * @throws InvalidArgumentError naming what is wrong and what exists
 */
export function backbone(spec: string): Backbone {
  const named = Object.entries(BACKBONES).find(([name]) => plain(name) === plain(spec));
  const [familyName, ...options] = (named?.[1] ?? spec).split(':');
  const family = FAMILIES.find(({ name }) => name === familyName);
  if (family !== undefined) return family.backbone(named?.[0] ?? spec, options.join(':'));
  throw new InvalidArgumentError(`There is no backbone "${spec}". Known: ${BACKBONE_HELP}.`);
}

function plain(name: string): string {
  return name.toLowerCase().replaceAll('-', '');
}
