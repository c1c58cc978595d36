import { createHash } from 'node:crypto';
import type { Clock } from '../base/clock.ts';
import { BonsaiError, InvalidArgumentError } from '../base/errors.ts';
import { type Model, withMetadata } from '../graph/model.ts';
import { readModel } from '../graph/onnx/read.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { countCost } from '../ops/count.ts';
import { frontierOf } from '../repository/frontier.ts';
import type { CostMetric, Lineage, Measurement, Target, Variant } from '../repository/types.ts';
import { foldConstants } from '../transform/passes/fold-constants.ts';
import { dependencyGroups } from '../transform/prune/groups.ts';
import {
  type Criterion,
  type GroupOptions,
  recordedCriterion,
} from '../transform/prune/importance/criterion.ts';
import {
  type CriterionName,
  type DataCriterionName,
  isDataCriterion,
} from '../transform/prune/importance/table.ts';
import {
  type PruneOptions,
  type PruneResult,
  prune,
  pruneDefaults,
  pruningOf,
} from '../transform/prune/prune.ts';
import { type IterationOptions, ratiosBetween } from '../transform/prune/schedule.ts';
import { BACKBONE_METADATA_KEY } from './backbones/backbone.ts';
import { hasBatchNorm, reestimateBatchNorm } from './batch-norm.ts';
import { quantizationOf, quantizeNetwork } from './calibrate/quantize-network.ts';
import type { Dataset, Split } from './data/data-module.ts';
import { evaluate } from './evaluate.ts';
import { gatherCriterion } from './importance/gather.ts';
import { compareLatency } from './profile/compare-latency.ts';
import { profileLatency } from './profile/latency.ts';
import { repeatDefaults } from './profile/throughput.ts';
import { digestOf, openStepCache, type StepCache } from './step-cache.ts';
import type { TrainingRecipe } from './train/recipe.ts';
import { trainNetwork } from './train/train.ts';

/**
 * Ports a trained network into a family: prune to each ratio, fine-tune, score on the test split, count, profile the
 * latency, order by accuracy, write, and profile the throughput of what was written. Every finished step leaves its
 * result in the work folder under a digest of its inputs, so that a second run redoes only what changed.
 * A ratio whose rounded widths are those of the variant before it (or of the base) makes none: `onNotice` says so.
 * @param base the trained network; it is a member of the family itself
 * @returns the family, version 1 being the most accurate; of equally accurate variants the one with fewer MACs
 *   comes first, as on the frontier
 * @throws InvalidArgumentError for ratios that do not ascend within (0, 1); `aborted`; and what the steps throw
 */
export async function portFamily(
  base: Model,
  dataset: Dataset,
  options: PortOptions,
  steps: PortSteps,
): Promise<Family> {
  checkRatios(options.ratios);
  const cache = openStepCache(options.workDirectory);
  const port: Port = { dataset, options, steps, cache, datasetDigest: digestOfDataset(dataset) };

  const candidates = [await finish(port, 0, base, { backbone: backboneOf(base), dataset: dataset.name })];
  let [baseWidths, widthsBefore] = ['', ''];
  for (const [index, ratio] of options.ratios.entries()) {
    const parent = options.chain === 'base' ? candidates[0]! : candidates.at(-1)!;
    const criterion = await criterionFor(port, index + 1, parent.model);
    const pruned = prune(parent.model, { ...options.pruning, criterion, ratio });
    if (baseWidths === '') baseWidths = widthsBefore = widthsOf(pruned, 'channels');
    const widths = widthsOf(pruned, 'kept');
    if (widths === widthsBefore) {
      options.onNotice?.(uselessRatio(options, index, widths === baseWidths));
      continue;
    }
    widthsBefore = widths;
    const tuned = await pruneAndTune(port, index + 1, parent.model, pruned);
    candidates.push(await finish(port, index + 1, tuned.model, lineageOf(port, parent, ratio, tuned.recipe)));
  }

  if (options.int8) candidates.push(...(await fasterTwins(port, candidates)));
  const family = inOrder(candidates, options.frontierMetric ?? 'flops');
  await steps.write(family);
  if (steps.throughput === undefined) return family;
  const profiled = await profileThroughput(port, family, steps.throughput);
  await steps.write(profiled);
  return profiled;
}

export interface PortOptions {
  /** Shares of channels removed relative to the base, ascending, each in (0, 1). */
  readonly ratios: readonly number[];
  /**
   * What each next variant is pruned from. 'previous' (default): the fine-tuned variant before it, which needs the
   * fewest epochs since each step removes little; 'base': the base, so that variants do not depend on each other.
   */
  readonly chain?: 'previous' | 'base';
  readonly pruning?: Omit<PruneOptions, 'ratio' | 'kept'>;
  /**
   * Rounds in which each variant is pruned and fine-tuned, its epochs spread evenly over them. Default: one round.
   */
  readonly iterations?: IterationOptions;
  /** How to fine-tune the variant of a ratio; part of the key under which the result is kept. */
  readonly recipe: (ratio: number) => TrainingRecipe;
  /**
   * Whether a twin of each variant in 8-bit integers is tried. It joins the family only if it measures faster than the
   * variant itself. Default false.
   */
  readonly int8?: boolean;
  readonly seed: number;
  readonly target: Target;
  /** Where finished steps leave their results. */
  readonly workDirectory: string;
  /** The time of a profile, as ISO 8601. */
  readonly nowIso: () => string;
  /** The metric by which the returned frontier is drawn. Default 'flops', known without throughput. */
  readonly frontierMetric?: CostMetric;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: PortProgress) => void;
  /** Sentences that the user should read, for instance that a ratio was skipped. */
  readonly onNotice?: (message: string) => void;
}

/** The parts that do the work or touch the world; `standardSteps` gives the first three. */
export interface PortSteps {
  train(
    model: Model,
    dataset: Dataset,
    recipe: TrainingRecipe,
    options: {
      readonly seed: number;
      readonly checkpointPath: string;
      readonly signal?: AbortSignal;
      readonly onProgress: (detail: unknown) => void;
    },
  ): Promise<{ readonly model: Model }>;
  evaluate(
    model: Model,
    split: Split,
    options: { readonly signal?: AbortSignal },
  ): Promise<{ readonly accuracy: number; readonly count: number }>;
  /** A criterion gathered from data. Needed for criteria that see data. */
  importance?(
    name: DataCriterionName,
    model: Model,
    split: Split,
    options: GroupOptions & { readonly seed: number; readonly signal?: AbortSignal },
  ): Promise<Criterion>;
  /** BatchNormalization's running averages measured anew, after pruning. Absent: they stay. */
  reestimate?(
    model: Model,
    split: Split,
    options: { readonly seed: number; readonly signal?: AbortSignal },
  ): Promise<Model>;
  /** Called for one variant at a time, while nothing else runs. */
  latency(model: Uint8Array, options: { readonly signal?: AbortSignal }): Promise<Measurement>;
  /** The network in 8-bit integers, and how it was made. Needed for `int8`. */
  quantize?(
    model: Model,
    dataset: Dataset,
    options: { readonly seed: number; readonly signal?: AbortSignal },
  ): Promise<{ readonly model: Model }>;
  /** Latencies of networks that take turns. Needed for `int8`; called while nothing else runs. */
  compare?(
    models: readonly Uint8Array[],
    options: { readonly signal?: AbortSignal },
  ): Promise<readonly Measurement[]>;
  /** Puts the family into a repository. Called again with profiles once throughput is known. */
  write(family: Family): Promise<void>;
  /** Maximal throughput of a variant that was written, through the server. */
  throughput?(variant: Variant): Promise<Throughput>;
}

/** Training, scoring and timing as Bonsai does them, each in a worker thread. */
export function standardSteps(options: {
  /** Threads for training and scoring; latency is always measured with one. */
  readonly threads: number;
  readonly latencyRuns?: number;
  /** For training's time left. */
  readonly clock?: Clock;
}): Pick<PortSteps, 'train' | 'evaluate' | 'importance' | 'reestimate' | 'latency' | 'quantize' | 'compare'> {
  const { threads, latencyRuns, clock } = options;
  return {
    quantize: (model, dataset, given) => quantizeNetwork(model, dataset, { ...given, threads }),
    compare: (models, given) =>
      compareLatency(models, { ...given, ...(latencyRuns !== undefined && { runs: latencyRuns }) }),
    importance: (name, model, split, given) => gatherCriterion(name, model, split, { ...given, threads }),
    reestimate: (model, split, given) => reestimateBatchNorm(model, split, { ...given, threads }),
    train: (model, dataset, recipe, given) =>
      trainNetwork(model, dataset, recipe, { ...given, threads, clock }),
    evaluate: (model, split, given) => evaluate(model, split, { ...given, threads }),
    latency: (model, given) =>
      profileLatency(model, { ...given, ...(latencyRuns !== undefined && { runs: latencyRuns }) }),
  };
}

export interface Throughput {
  readonly throughputRps: Measurement;
  /** Concurrency at which throughput stopped rising. */
  readonly concurrency: number;
}

export interface Family {
  /** Ascending by version. */
  readonly variants: readonly Variant[];
  /** The ONNX file of each version. */
  readonly models: ReadonlyMap<number, Uint8Array>;
  readonly latencies: ReadonlyMap<number, Measurement>;
  /** Versions on the frontier, most accurate first. */
  readonly frontier: readonly number[];
}

export interface PortProgress {
  readonly step:
    | 'importance'
    | 'reestimate'
    | 'fine-tune'
    | 'evaluate'
    | 'latency'
    | 'quantize'
    | 'compare'
    | 'throughput';
  /** Position of the variant (0: the base; n: the n-th ratio; for throughput, version - 1), and how many were asked for. */
  readonly variant: number;
  readonly variants: number;
  readonly state: 'running' | 'finished' | 'reused';
  /** What the step itself reports, for instance training's progress. */
  readonly detail?: unknown;
}

interface Port {
  readonly dataset: Dataset;
  readonly datasetDigest: string;
  readonly options: PortOptions;
  readonly steps: PortSteps;
  readonly cache: StepCache;
}

interface Candidate {
  readonly model: Model;
  readonly bytes: Uint8Array;
  readonly latencyMs: Measurement;
  readonly variant: Omit<Variant, 'version'>;
}

/** Where a network's file tells its lineage and accuracy (JSON). */
export const LINEAGE_KEY = 'bonsai.lineage';

/** The widths of all dependency groups as a text that compares, before or after pruning. */
function widthsOf({ groups }: PruneResult, which: 'channels' | 'kept'): string {
  return groups.map((group) => group[which]).join(',');
}

function uselessRatio({ ratios, pruning }: PortOptions, index: number, isBase: boolean): string {
  const align = pruning?.align ?? pruneDefaults.align;
  return isBase
    ? `Ratio ${ratios[index]} removes nothing at alignment ${align}: skipped.`
    : `Ratio ${ratios[index]} removes nothing more than ratio ${ratios[index - 1]} at alignment ${align}: skipped.`;
}

/** What a network's channels are scored by: gathered where the criterion sees data, else as the options say. */
async function criterionFor(
  port: Port,
  index: number,
  model: Model,
): Promise<CriterionName | Criterion | undefined> {
  const { options, steps, cache, dataset, datasetDigest } = port;
  const { criterion, importance } = options.pruning ?? {};
  if (typeof criterion !== 'string' || !isDataCriterion(criterion)) return criterion;
  const { seed, signal } = options;
  const gather = steps.importance;
  if (gather === undefined) {
    throw new InvalidArgumentError(
      `The criterion "${criterion}" sees data: the step \`importance\` has to be given.`,
    );
  }
  const network = digestOf(writeModel(model));
  const key = cache.key('importance', { network, dataset: datasetDigest, criterion, importance, seed });
  const scores = await run(port, 'importance', index, cache.json<Record<string, number[]>>(key), async () => {
    const gathered = await gather(criterion, model, dataset.train, { ...importance, seed, signal });
    const { groups } = dependencyGroups(foldConstants(model));
    return Object.fromEntries(groups.map((group) => [group.key, Array.from(gathered.scores(group))]));
  });
  return recordedCriterion(criterion, scores);
}

/**
 * The pruned network, repaired: with one round, BatchNormalization re-estimated and fine-tuned; with more, pruned
 * anew from the parent along the schedule, each round with its share of the epochs.
 */
async function pruneAndTune(
  port: Port,
  index: number,
  parent: Model,
  pruned: PruneResult,
): Promise<{ model: Model; recipe: TrainingRecipe }> {
  const { options } = port;
  const ratio = options.ratios[index - 1]!;
  const recipe = options.recipe(ratio);
  const iterations = options.iterations ?? { schedule: 'one-shot', iterations: 1 };
  const rounds = ratiosBetween(pruningOf(parent)?.ratio ?? 0, ratio, iterations);
  if (rounds.length === 1) {
    return {
      model: await fineTune(port, index, await reestimate(port, index, pruned.model), recipe),
      recipe,
    };
  }
  const phases = recipe.phases.map((phase) => ({ ...phase, epochs: phase.epochs / rounds.length }));
  let model = parent;
  for (const target of rounds) {
    const criterion = await criterionFor(port, index, model);
    model = prune(model, { ...options.pruning, criterion, ratio: target }).model;
    model = await reestimate(port, index, model);
    model = await fineTune(port, index, model, { ...recipe, phases });
  }
  return { model, recipe };
}

async function reestimate(port: Port, index: number, pruned: Model): Promise<Model> {
  const { options, steps, cache, dataset, datasetDigest } = port;
  const { seed, signal } = options;
  const measure = steps.reestimate;
  if (measure === undefined || !hasBatchNorm(pruned)) return pruned;
  const key = cache.key('reestimate', {
    network: digestOf(writeModel(pruned)),
    dataset: datasetDigest,
    seed,
  });
  const bytes = await run(port, 'reestimate', index, cache.model(key), async () =>
    writeModel(await measure(pruned, dataset.train, { seed, signal })),
  );
  return readModel(bytes);
}

async function fineTune(port: Port, index: number, pruned: Model, recipe: TrainingRecipe): Promise<Model> {
  const { options, steps, cache, dataset, datasetDigest } = port;
  const key = cache.key('fine-tune', {
    network: digestOf(writeModel(pruned)),
    dataset: datasetDigest,
    recipe,
    seed: options.seed,
  });
  const bytes = await run(port, 'fine-tune', index, cache.model(key), async (report) => {
    const { model } = await steps.train(pruned, dataset, recipe, {
      seed: options.seed,
      checkpointPath: cache.checkpointPath(key),
      signal: options.signal,
      onProgress: report,
    });
    return writeModel(model);
  });
  await cache.dropCheckpoint(key);
  return readModel(bytes);
}

/** Scores a trained network, writes its lineage into it, counts and times it. */
async function finish(
  port: Port,
  index: number,
  trained: Model,
  lineage: Lineage,
  cost?: Pick<Variant, 'macs' | 'parameters'>,
): Promise<Candidate> {
  const { options, steps, cache, dataset, datasetDigest } = port;
  const { signal } = options;
  const scoreKey = cache.key('evaluate', { network: digestOf(writeModel(trained)), dataset: datasetDigest });
  const accuracy = await run(port, 'evaluate', index, cache.json<Variant['accuracy']>(scoreKey), async () => {
    const test = await steps.evaluate(trained, dataset.test, { signal });
    const validation =
      dataset.validation.count > 0
        ? await steps.evaluate(trained, dataset.validation, { signal })
        : undefined;
    return {
      test: test.accuracy,
      testCount: test.count,
      ...(validation && { validation: validation.accuracy }),
    };
  });

  const model = withMetadata(trained, { [LINEAGE_KEY]: JSON.stringify({ ...lineage, accuracy }) });
  const bytes = writeModel(model);
  const digest = digestOf(bytes);
  const latencyKey = cache.key('latency', { network: digest, target: options.target.fingerprint });
  const latencyMs = await run(port, 'latency', index, cache.json<Measurement>(latencyKey), () =>
    steps.latency(bytes, { signal }),
  );
  const { macs, parameters } = cost ?? countCost(model);
  return {
    model,
    bytes,
    latencyMs,
    variant: { digest, sizeBytes: bytes.byteLength, accuracy, macs, parameters, lineage, profiles: {} },
  };
}

/** How many times as fast as its float parent a twin in integers has to be: less is within the noise of measuring. */
export const INT8_MIN_SPEEDUP = 1.03;

/** The twins in 8-bit integers that measure faster than the variants they are made from. */
async function fasterTwins(port: Port, candidates: readonly Candidate[]): Promise<Candidate[]> {
  const { options, steps, cache, dataset, datasetDigest } = port;
  const { quantize, compare } = steps;
  if (quantize === undefined || compare === undefined) {
    throw new InvalidArgumentError('With `int8`, the steps `quantize` and `compare` have to be given.');
  }
  const { signal, seed } = options;
  const twins: Candidate[] = [];
  for (const [index, parent] of candidates.entries()) {
    const { lineage, digest, macs, parameters } = parent.variant;
    const name = lineage.pruning === undefined ? 'the base' : `ratio ${lineage.pruning.ratio}`;
    const key = cache.key('quantize', { network: digest, dataset: datasetDigest, seed });
    const bytes = await run(port, 'quantize', index, cache.model(key), async () =>
      writeModel((await quantize(parent.model, dataset, { seed, signal })).model),
    );
    const compareKey = cache.key('compare', {
      networks: [digest, digestOf(bytes)],
      target: options.target.fingerprint,
    });
    const [float, integer] = await run(
      port,
      'compare',
      index,
      cache.json<readonly Measurement[]>(compareKey),
      () => compare([parent.bytes, bytes], { signal }),
    );
    const speedup = float!.median / integer!.median;
    if (!(speedup >= INT8_MIN_SPEEDUP)) {
      options.onNotice?.(
        `INT8 does not pay for ${name}: ${integer!.median.toPrecision(3)} ms against ` +
          `${float!.median.toPrecision(3)} ms in floating point. Left out.`,
      );
      continue;
    }
    const model = readModel(bytes);
    const quantization = quantizationOf(model);
    const made = { ...lineage, parent: digest, ...(quantization && { quantization }) };
    twins.push(await finish(port, index, model, made, { macs, parameters }));
  }
  return twins;
}

function inOrder(candidates: readonly Candidate[], metric: CostMetric): Family {
  const ordered = candidates.toSorted(
    (a, b) => b.variant.accuracy.test - a.variant.accuracy.test || a.variant.macs - b.variant.macs,
  );
  const numbered = ordered.map((candidate, i) => ({ ...candidate, version: i + 1 }));
  const variants = numbered.map(({ version, variant }) => ({ version, ...variant }));
  return {
    variants,
    models: new Map(numbered.map(({ version, bytes }) => [version, bytes])),
    latencies: new Map(numbered.map(({ version, latencyMs }) => [version, latencyMs])),
    frontier: frontierOf(variants, metric).map((variant) => variant.version),
  };
}

async function profileThroughput(
  port: Port,
  family: Family,
  throughput: NonNullable<PortSteps['throughput']>,
): Promise<Family> {
  const { options, cache } = port;
  const { target } = options;
  const variants: Variant[] = [];
  for (const [index, variant] of family.variants.entries()) {
    const key = cache.key('throughput', { network: variant.digest, target: target.fingerprint });
    const measured = await run(
      port,
      'throughput',
      index,
      cache.json<Throughput & { measuredAt: string }>(key),
      async () => ({ ...(await throughput(variant)), measuredAt: options.nowIso() }),
    );
    const { min, max } = measured.throughputRps;
    if (max > min * repeatDefaults.spreadLimit) {
      options.onNotice?.(
        `The throughput of version ${variant.version} varied by ${(max / min).toFixed(2)} between repetitions: something else kept this machine busy. ` +
          'Measure again when it is quiet: bonsai profile.',
      );
    }
    const profile = { target, latencyMs: family.latencies.get(variant.version)!, ...measured };
    variants.push({ ...variant, profiles: { ...variant.profiles, [target.fingerprint]: profile } });
  }
  const frontier = frontierOf(variants, options.frontierMetric ?? 'inverseThroughput', target.fingerprint);
  return { ...family, variants, frontier: frontier.map((variant) => variant.version) };
}

/** One step: its kept result, or the work and then its result kept. Reports either way; stops at an abort. */
async function run<T>(
  { options }: Port,
  step: PortProgress['step'],
  variant: number,
  slot: { load(): Promise<T | undefined>; save(result: T): Promise<void> },
  work: (report: (detail: unknown) => void) => Promise<T>,
): Promise<T> {
  if (options.signal?.aborted)
    throw new BonsaiError(
      'aborted',
      `Porting was stopped before "${step}" of variant ${variant}. Finished steps are kept.`,
    );
  const report = (state: PortProgress['state'], detail?: unknown) =>
    options.onProgress?.({
      step,
      variant,
      variants: options.ratios.length + 1,
      state,
      ...(detail !== undefined && { detail }),
    });
  const kept = await slot.load();
  if (kept !== undefined) {
    report('reused');
    return kept;
  }
  report('running');
  const result = await work((detail) => report('running', detail));
  await slot.save(result);
  report('finished');
  return result;
}

function lineageOf(
  { options, dataset }: Port,
  parent: Candidate,
  ratio: number,
  recipe: TrainingRecipe,
): Lineage {
  const {
    criterion = pruneDefaults.criterion,
    scope = 'uniform',
    align = pruneDefaults.align,
  } = options.pruning ?? {};
  return {
    parent: parent.variant.digest,
    backbone: parent.variant.lineage.backbone,
    dataset: dataset.name,
    seed: options.seed,
    epochs: recipe.phases.reduce((sum, phase) => sum + phase.epochs, 0),
    pruning: { criterion: typeof criterion === 'string' ? criterion : criterion.name, scope, ratio, align },
  };
}

/** The name that the backbone's builder left in the file; undefined for networks of other origin. */
function backboneOf(base: Model): string | undefined {
  try {
    const made: unknown = JSON.parse(base.metadata.get(BACKBONE_METADATA_KEY) ?? 'null');
    const hasName =
      typeof made === 'object' && made !== null && 'name' in made && typeof made.name === 'string';
    return hasName ? (made.name as string) : undefined; // Its type was just checked.
  } catch {
    return undefined; // Somebody else's entry under our key: lineage then tells no backbone.
  }
}

/** @throws InvalidArgumentError for shares that do not ascend within (0, 1) */
export function checkRatios(ratios: readonly number[]): void {
  let before = 0;
  for (const ratio of ratios) {
    if (!(ratio > before && ratio < 1)) {
      throw new InvalidArgumentError(
        `The pruning ratios are ${ratios.join(', ')}; they should ascend within (0, 1).`,
      );
    }
    before = ratio;
  }
}

function digestOfDataset(dataset: Dataset): string {
  const hash = createHash('sha256').update(JSON.stringify([dataset.name, dataset.classes, dataset.shape]));
  for (const { images, labels } of [dataset.train, dataset.validation, dataset.test])
    hash.update(images).update(labels);
  return hash.digest('hex');
}
