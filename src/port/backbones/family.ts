import { InvalidArgumentError } from '../../base/errors.ts';
import { modelOf } from '../../graph/build.ts';
import type { Model } from '../../graph/model.ts';
import { BACKBONE_METADATA_KEY, type Backbone, type BackboneOptions } from './backbone.ts';
import { addHead, type Features, type Network, startNetwork } from './layers.ts';
import { automatic, type Fields, integer, type OptionsOf, parseOptions } from './spec.ts';

/** Networks of one construction that differ in their options. */
export interface Family {
  /** Before the colon of a spec. */
  readonly name: string;
  /** A spec that shows the options. */
  readonly example: string;
  readonly fields: Fields;
  /**
   * @param spec the name that the network will have, and how messages call it
   * @param options `key=value,key=value`
   * @throws InvalidArgumentError naming the option that is wrong and what the family knows
   */
  backbone(spec: string, options: string): Backbone;
}

/** What a family makes of its options. */
export interface Architecture {
  /** By what the layers after the stem divide the height and width of an image. */
  readonly strideAfterStem: number;
  /** The layers from the normalised image to what is averaged before the last, linear one. */
  readonly features: (network: Network, image: Features, stem: Stem) => Features;
}

/** How much smaller images become before the first block, so that large ones cost no more than they should. */
export interface Stem {
  /** Stride of the first convolution. */
  readonly stride: number;
  /** Stride of the pooling behind it; 1: no pooling. */
  readonly pool: number;
}

/** Images with a shorter side above these are halved by the first convolution, and again by a pooling behind it. */
export const STEM_LIMITS = { stride: 64, pool: 128 } as const;

/** The options that every family has. */
export const STEM_FIELDS = {
  stride: automatic(
    'stride of the first convolution',
    integer(1, 4),
    `1, and 2 for images above ${STEM_LIMITS.stride} pixels`,
  ),
  pool: automatic(
    'stride of a max-pooling behind it, 1 for none',
    integer(1, 2),
    `1, and 2 for images above ${STEM_LIMITS.pool} pixels`,
  ),
} as const satisfies Fields;

/** The stem that suits an image. */
export function stemOf([, height, width]: BackboneOptions['inputShape']): Stem {
  const side = Math.min(height, width);
  return { stride: side > STEM_LIMITS.stride ? 2 : 1, pool: side > STEM_LIMITS.pool ? 2 : 1 };
}

/** @param architecture what the options make; throws InvalidArgumentError for those that contradict each other */
export function familyOf<F extends typeof STEM_FIELDS & Fields>(
  name: string,
  example: string,
  fields: F,
  architecture: (options: OptionsOf<F>, spec: string) => Architecture,
): Family {
  return {
    name,
    example,
    fields,
    backbone(spec, text) {
      const options = parseOptions(spec, text, fields);
      const plan = architecture(options, spec);
      return { name: spec, build: (target) => buildNetwork({ spec, name, options, plan }, target) };
    },
  };
}

function buildNetwork(
  made: {
    readonly spec: string;
    readonly name: string;
    readonly options: OptionsOf<typeof STEM_FIELDS>;
    readonly plan: Architecture;
  },
  target: BackboneOptions,
): Model {
  const { spec, options, plan } = made;
  const fitting = stemOf(target.inputShape);
  const stem = { stride: options.stride ?? fitting.stride, pool: options.pool ?? fitting.pool };
  checkTarget(spec, target, stem.stride * stem.pool * plan.strideAfterStem);
  const { network, image } = startNetwork(spec, target);
  addHead(network, plan.features(network, image, stem), target.classes);
  const { inputShape, classes, seed } = target;
  const metadata = { name: spec, family: made.name, ...options, ...stem, inputShape, classes, seed };
  return modelOf(network.build.finish(), {
    metadata: { [BACKBONE_METADATA_KEY]: JSON.stringify(metadata) },
  });
}

function checkTarget(spec: string, target: BackboneOptions, totalStride: number): void {
  const [channels, height, width] = target.inputShape;
  const { mean, std } = target.normalization;
  if (mean.length !== channels || std.length !== channels) {
    throw new InvalidArgumentError(
      `The normalisation has ${mean.length} means and ${std.length} deviations for ${channels} channels.`,
    );
  }
  if (Math.min(height, width) >= totalStride) return;
  throw new InvalidArgumentError(
    `Images of ${height}×${width} pixels are too small for the backbone "${spec}", which divides their sides by ` +
      `${totalStride}. Use larger images, or a backbone of fewer stages.`,
  );
}
