import { BonsaiError, InvalidArgumentError } from '../../base/errors.ts';
import { checkIsModel, checkOptionNames } from '../../base/options.ts';
import { seededRandom } from '../../base/random.ts';
import { workerUrl } from '../../base/worker-url.ts';
import type { Model } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { foldConstants } from '../../transform/passes/fold-constants.ts';
import { singlePrecision } from '../../transform/passes/single-precision.ts';
import { type ChannelMeans, compensationSites } from '../../transform/prune/compensate.ts';
import {
  type ActivationCriterionName,
  type ActivationMean,
  type ActivationSite,
  activationCriterion,
  activationSites,
  withActivationMeans,
} from '../../transform/prune/importance/activation.ts';
import {
  type Criterion,
  checkedOptions,
  type GroupOptions,
} from '../../transform/prune/importance/criterion.ts';
import { requireBatchNorm } from '../../transform/prune/importance/slim.ts';
import {
  type CriterionName,
  isDataCriterion,
  weightCriterion,
} from '../../transform/prune/importance/table.ts';
import { taylorCriterion, taylorGateCriterion } from '../../transform/prune/importance/taylor.ts';
import { propagateLabels } from '../../transform/prune/labels.ts';
import type { Split } from '../data/data-module.ts';
import { loadDrawn } from '../data/examples.ts';
import { runJob } from '../worker-job.ts';
import { fpgmByEngine } from './fpgm.ts';
import { type StatisticsForm, statisticsForm } from './statistics-form.ts';

export interface GatherOptions extends GroupOptions {
  /** Decides which examples are drawn, and the scores of 'random'. */
  readonly seed: number;
  /** Examples of a mini-batch. Default `GATHER_BATCH`; a network that insists on a batch gets that. */
  readonly batch?: number;
  /** How many mini-batches. Default `GATHER_BATCHES`, fewer where the split is small. */
  readonly batches?: number;
  /** Threads of ONNX Runtime. Default 1. The same number gives the same scores. */
  readonly threads?: number;
  /** Block of the layout in which gradients are computed; default: this machine's. */
  readonly block?: number;
  readonly signal?: AbortSignal;
}

/** The names of all options: the compiler compares the list with the type. */
const GATHER_OPTION_TABLE: Readonly<Record<keyof GatherOptions, true>> = {
  members: true,
  reduce: true,
  normalise: true,
  seed: true,
  batch: true,
  batches: true,
  threads: true,
  block: true,
  signal: true,
};
const GATHER_OPTIONS = Object.keys(GATHER_OPTION_TABLE);

/** As in training: enough to average over classes, little enough for the caches. */
export const GATHER_BATCH = 64;
/** NNI's default of `training_batches` for the same criteria; 1,280 examples. */
export const GATHER_BATCHES = 20;

/**
 * The criterion of that name for a network, with what it needs to see of the data gathered: gradients of the loss
 * (Taylor) or activations (APoZ, mean activation) over mini-batches of a split, in a worker thread. Criteria of the
 * weights alone come back without a look at the data. BatchNormalization uses the statistics of the mini-batch in
 * gradients, its running ones in activations.
 * @param split labelled examples of the network's own input size, best of the training split
 * @throws InvalidArgumentError for a name that is none, options and choices that do not exist, an empty split, a batch that
 *   is not a positive integer
 * @throws BonsaiError `unsupported` where the network lacks what the criterion reads, `missing_rule` where it cannot
 *   be differentiated, `shape_mismatch` where images or labels do not fit, `aborted`
 */
export async function gatherCriterion(
  name: CriterionName,
  network: Model,
  split: Split,
  options: GatherOptions,
): Promise<Criterion> {
  checkIsModel('gatherCriterion', network);
  checkOptionNames('gatherCriterion', options, GATHER_OPTIONS, {
    example: '{ seed: 1 }',
    hints: { normalize: "normalise: 'none'" },
  });
  checkedOptions(options);
  if (name === 'fpgm') return fpgmByEngine(network, options);
  if (!isDataCriterion(name)) return weightCriterion(name, foldConstants(network), options);
  const model = singlePrecision(network);
  if (name === 'taylor-gate') requireBatchNorm(model, name, 'taylor');
  const form = statisticsForm(model);
  const examples = await examplesOf(form, split, options);
  switch (name) {
    case 'taylor':
    case 'taylor-gate': {
      const { squares, gates } = await gatherGradients(form, examples, options);
      return name === 'taylor'
        ? taylorCriterion(squares, options)
        : taylorGateCriterion(model, gates, squares, options);
    }
    case 'apoz':
    case 'mean-activation':
      return gatherActivations(name, model, form, examples, options);
    default:
      throw new InvalidArgumentError(`There is no criterion "${String(name satisfies never)}".`);
  }
}

/**
 * The mean of each channel that a layer reads, over mini-batches of a split: what `prune` takes as `means`.
 * @throws as `gatherCriterion`
 */
export async function gatherMeans(model: Model, split: Split, options: GatherOptions): Promise<ChannelMeans> {
  const single = singlePrecision(model);
  const form = statisticsForm(single);
  const propagation = propagateLabels(foldConstants(single));
  const sites = compensationSites(propagation).map((value) => ({
    key: value,
    value,
    labels: propagation.values.get(value)!, // Sites carry labels.
  }));
  return measureMeans('value', form, sites, await examplesOf(form, split, options), options);
}

/** What the worker is given. */
export type GatherJob = {
  /** ONNX bytes. */
  readonly model: Uint8Array;
  readonly split: Split;
  readonly batch: number;
  readonly threads: number;
  readonly block?: number;
} & (
  | { readonly kind: 'gradients' }
  /** The outputs to average over the mini-batches. */
  | { readonly kind: 'means'; readonly outputs: readonly string[] }
);

/** By parameter (gradients) or by output (means): sums, resp. means over the examples. */
export interface Gathered {
  readonly squares: ReadonlyMap<string, Float64Array>;
  readonly gates: ReadonlyMap<string, Float64Array>;
  readonly means: ReadonlyMap<string, Float64Array>;
}

async function gatherGradients(
  { network }: StatisticsForm,
  { split, batch }: Examples,
  options: GatherOptions,
): Promise<Gathered> {
  const { threads = 1, block } = options;
  return run({ kind: 'gradients', model: writeModel(network), split, batch, threads, block }, options.signal);
}

async function gatherActivations(
  name: ActivationCriterionName,
  model: Model,
  form: StatisticsForm,
  examples: Examples,
  options: GatherOptions,
): Promise<Criterion> {
  const propagation = propagateLabels(foldConstants(model));
  const sites = [...activationSites(propagation).values()].flat();
  const means = await measureMeans(name, form, sites, examples, options);
  return activationCriterion(name, propagation, means, options);
}

/** Means by the key of the site. */
async function measureMeans(
  name: ActivationMean,
  { network }: StatisticsForm,
  sites: readonly Pick<ActivationSite, 'key' | 'value' | 'labels'>[],
  { split, batch }: Examples,
  options: GatherOptions,
): Promise<ChannelMeans> {
  const measured = withActivationMeans(network, name, sites);
  const job: GatherJob = {
    kind: 'means',
    outputs: [...measured.outputs.values()],
    model: writeModel(measured.model),
    split,
    batch,
    threads: options.threads ?? 1,
  };
  const { means } = await run(job, options.signal);
  const byKey = new Map<string, Float64Array>();
  for (const [key, output] of measured.outputs) byKey.set(key, means.get(output)!);
  return byKey;
}

function run(job: GatherJob, signal: AbortSignal | undefined): Promise<Gathered> {
  return runJob<GatherJob, never, Gathered>(workerUrl(import.meta.url, 'gather-worker'), job, { signal });
}

interface Examples {
  readonly split: Split;
  readonly batch: number;
}

/** Whole mini-batches drawn from a split. @throws InvalidArgumentError where there cannot be any */
export async function examplesOf(
  form: StatisticsForm,
  split: Split,
  options: Pick<GatherOptions, 'batch' | 'batches' | 'seed' | 'signal'>,
): Promise<Examples> {
  const { batch = GATHER_BATCH, batches = GATHER_BATCHES } = options;
  for (const [what, count] of Object.entries({ batch, batches })) {
    if (!Number.isInteger(count) || count < 1)
      throw new InvalidArgumentError(`The number "${what}" is ${count}; it should be a positive integer.`);
  }
  const fitting = form.batch ?? Math.min(batch, split.count);
  const whole = Math.floor(Math.min(batch * batches, split.count) / Math.max(1, fitting));
  if (whole === 0) {
    throw new InvalidArgumentError(
      `The split has ${split.count} examples, which is not one mini-batch of ${Math.max(1, fitting)}. Give more data.`,
    );
  }
  const random = seededRandom(options.seed).fork('importance');
  return { split: await loadDrawn(split, whole * fitting, random, options.signal), batch: fitting };
}

/** @throws BonsaiError `shape_mismatch` where a label is none of the network's classes */
export function checkLabels(split: Split, classes: number): void {
  const wrong = split.labels.findIndex((label) => label >= classes);
  if (wrong < 0) return;
  throw new BonsaiError(
    'shape_mismatch',
    `An example has class ${split.labels[wrong]}; the network knows ${classes}.`,
  );
}
