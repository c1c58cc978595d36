/**
 * Labelled images as bytes: in memory, or as files that are decoded when they are needed. A data module loads one of
 * these. Loops read it through `openExamples` and `batchOf`, everything that wants a few examples through
 * `loadExamples`.
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
  /** count × channels × height × width bytes, row-major. Empty where the images stay in their `files`. */
  readonly images: Uint8Array;
  /** Class index of each example. */
  readonly labels: Uint8Array;
  /** What the images were, or are to be, decoded from. */
  readonly files?: ImageFiles;
}

/** Image files and how they become bytes; plain data, so that worker threads can be given it. */
export interface ImageFiles {
  /** One path for each example, absolute. */
  readonly paths: readonly string[];
  /** Height and width of the bytes: a square from the middle, three channels. */
  readonly size: number;
  /** To what the shorter side is scaled before the square is cut out; at least `size`. */
  readonly resize: number;
  /** SHA-256 over paths, sizes and times of the files, and the numbers above: stands for the bytes. */
  readonly digest: string;
}

/** A source of a dataset. `load` is deterministic for a seed (it decides the split where the source has none). */
export interface DataModule {
  readonly name: string;
  load(options: LoadOptions): Promise<Dataset>;
}

export interface LoadOptions {
  readonly seed: number;
  readonly signal?: AbortSignal;
  /** Examples decoded so far, and how many there are; only of modules for which this takes a while. */
  readonly onProgress?: (done: number, total: number) => void;
}
