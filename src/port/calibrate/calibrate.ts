import { InvalidArgumentError } from '../../base/errors.ts';
import { permutation, seededRandom } from '../../base/random.ts';
import { workerUrl } from '../../base/worker-url.ts';
import { GraphBuilder } from '../../graph/build.ts';
import { type Model, withGraph } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { namesIn, removeUnused } from '../../graph/walk.ts';
import type { Range } from '../../transform/quantize/integers.ts';
import type { PlanOptions } from '../../transform/quantize/plan.ts';
import { prepareQuantization } from '../../transform/quantize/prepare.ts';
import { observedValues } from '../../transform/quantize/quantize.ts';
import type { Dataset, Split } from '../data/data-module.ts';
import { loadExamples } from '../data/examples.ts';
import { type ImageInput, withImageInput } from '../image-input.ts';
import { runJob } from '../worker-job.ts';
import { DEFAULT_PERCENTILE } from './percentile.ts';

/** How a value's range is found from what it was seen to be. */
export const CALIBRATION_METHODS = ['min-max', 'percentile', 'entropy'] as const;
export type CalibrationMethod = (typeof CALIBRATION_METHODS)[number];

export interface CalibrationOptions extends PlanOptions {
  readonly method?: CalibrationMethod;
  /** How many examples are looked at, drawn at random by the seed; all where there are fewer. */
  readonly samples?: number;
  readonly seed?: number;
  /** For method `percentile`: the percentage of values kept, above 50. */
  readonly percentile?: number;
  /** How images become the network's input, where it is not pixels in [0, 1] in the order [N, C, H, W]. */
  readonly input?: ImageInput;
  readonly threads?: number;
  readonly signal?: AbortSignal;
  /** Images done of those to do (twice the samples for methods that need a histogram). */
  readonly onProgress?: (done: number, total: number) => void;
}

export const calibrationDefaults = {
  /** Without a tunable; on CIFAR-10's ResNet-20 the three methods are within 0.12 points of each other. */
  method: 'min-max',
  /** Ranges hardly move beyond: Wu et al. 2020, "Integer Quantization for Deep Learning Inference", use 1024 for 1000 classes. */
  samples: 256,
  seed: 1,
  percentile: DEFAULT_PERCENTILE,
  threads: 1,
} as const satisfies CalibrationOptions;

/** Images of one inference: all activations of a batch are kept at once, so a small one. */
export const CALIBRATION_BATCH = 8;

/**
 * The ranges of all values that `quantize` needs, over examples of a split, in a worker thread. The same model, split
 * and options give the same ranges on the same machine.
 * @throws InvalidArgumentError for a count or percentile out of range; BonsaiError `shape_mismatch` where images and
 *   network do not fit or a value is not finite, `load_failed`, `aborted`
 */
export async function calibrate(
  model: Model,
  dataset: Pick<Dataset, 'shape' | 'normalization'>,
  split: Split,
  options: CalibrationOptions = {},
): Promise<ReadonlyMap<string, Range>> {
  const { method, samples, seed, percentile, threads } = { ...calibrationDefaults, ...options };
  if (!Number.isInteger(samples) || samples < 1 || split.count === 0) {
    throw new InvalidArgumentError(
      `Calibration on ${samples} of ${split.count} examples is not possible; it needs at least one.`,
    );
  }
  if (!(percentile > 50 && percentile <= 100)) {
    throw new InvalidArgumentError(`The percentile is ${percentile}, expected one above 50, up to 100.`);
  }
  const prepared = prepareQuantization(model);
  const values = observedValues(prepared, options);
  const { model: observed, outputs } = observable(withImageInput(prepared, dataset, options.input), values);
  const indices = permutation(split.count, seededRandom(seed)).slice(0, Math.min(samples, split.count));
  const input: CalibrationInput = {
    model: writeModel(observed),
    outputs,
    split: await loadExamples(split, indices, dataset.shape, options.signal),
    shape: dataset.shape,
    method,
    percentile,
    threads,
  };
  const ranges = await runJob<CalibrationInput, CalibrationProgress, Range[]>(
    workerUrl(import.meta.url, 'calibrate-worker'),
    input,
    {
      signal: options.signal,
      onEvent: ({ done, total }) => options.onProgress?.(done, total),
    },
  );
  return new Map(values.map((value, i) => [value, ranges[i]!]));
}

export interface CalibrationInput {
  readonly model: Uint8Array;
  /** The outputs whose ranges are wanted. */
  readonly outputs: readonly string[];
  readonly split: Split;
  readonly shape: Dataset['shape'];
  readonly method: CalibrationMethod;
  readonly percentile: number;
  readonly threads: number;
}

export interface CalibrationProgress {
  readonly done: number;
  readonly total: number;
}

/** The network that answers with the given values instead of its own outputs. */
function observable(model: Model, values: readonly string[]): { model: Model; outputs: readonly string[] } {
  const { graph } = model;
  const build = new GraphBuilder(graph.name, { ...graph, outputs: [] });
  build.avoid(namesIn(graph));
  const fed = new Set(graph.inputs.map(({ name }) => name));
  const outputs = values.map((value) => {
    // An input cannot be an output under its own name. Others are: ONNX Runtime 1.30 loses track of a value that both an
    // Identity and a Pad before a pooling read, and refuses the network.
    const output = fed.has(value)
      ? build.op('Identity', [value], {}, { outputs: [build.fresh(`${value}_observed`)] })
      : value;
    build.output(output, 'float32');
    return output;
  });
  return { model: withGraph(model, removeUnused({ ...graph, ...build.finish() })), outputs };
}
