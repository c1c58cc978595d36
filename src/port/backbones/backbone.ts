import type { Model } from '../../graph/model.ts';

/**
 * A family of network shapes that can be built for any data: one input `image` (float32 [N, C, H, W], pixels in
 * [0, 1]) and one output `logits` (float32 [N, classes]), untrained, with its hyper-parameters in the metadata.
 */
export interface Backbone {
  readonly name: string;
  build(options: BackboneOptions): Model;
}

export interface BackboneOptions {
  readonly inputShape: readonly [channels: number, height: number, width: number];
  readonly classes: number;
  /** Per channel on the scale 0..1; becomes the first two nodes of the network. */
  readonly normalization: { readonly mean: readonly number[]; readonly std: readonly number[] };
  /** Decides the initial weights. */
  readonly seed: number;
}

/** Under this metadata key a network of Bonsai's own keeps the JSON of how it was built. */
export const BACKBONE_METADATA_KEY = 'bonsai.backbone';

/** The names of the normalisation's constants, which no training and no pruning touches. */
export const NORMALIZE_MEAN = 'normalize/mean';
export const NORMALIZE_SCALE = 'normalize/scale';
