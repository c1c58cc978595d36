/**
 * Labelled data in memory, images as bytes. A data module loads one of these; training, calibration, profiling
 * and load generation read them through `batchOf`.
 */
export interface Dataset {
  readonly name: string;
  readonly classes: readonly string[];
  /** [channels, height, width] of one example. */
  readonly shape: readonly [channels: number, height: number, width: number];
  readonly train: Split;
  readonly validation: Split;
  readonly test: Split;
  /** Per channel, on the scale 0..1: the network's input is (byte / 255 - mean) / std. */
  readonly normalization: { readonly mean: readonly number[]; readonly std: readonly number[] };
}

export interface Split {
  readonly count: number;
  /** count × channels × height × width bytes, row-major. */
  readonly images: Uint8Array;
  /** Class index of each example. */
  readonly labels: Uint8Array;
}

/** A source of a dataset. `load` is deterministic for a seed (it decides the split where the source has none). */
export interface DataModule {
  readonly name: string;
  load(options: { readonly seed: number; readonly signal?: AbortSignal }): Promise<Dataset>;
}
