import { createHash } from 'node:crypto';
import { BonsaiError, InvalidArgumentError } from '../../base/errors.ts';
import { type Model, withMetadata } from '../../graph/model.ts';
import { readModel } from '../../graph/onnx/read.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { countCost } from '../../ops/count.ts';
import type { Lineage, Measurement, Profile, Variant } from '../../repository/types.ts';
import { foldConstants } from '../../transform/passes/fold-constants.ts';
import type { ChannelMeans } from '../../transform/prune/compensate.ts';
import { dependencyGroups } from '../../transform/prune/groups.ts';
import { type Criterion, recordedCriterion } from '../../transform/prune/importance/criterion.ts';
import { type CriterionName, isDataCriterion } from '../../transform/prune/importance/table.ts';
import { hasBatchNorm } from '../batch-norm/batch-norm.ts';
import type { Dataset, Split } from '../data/data-module.ts';
import { identityOf, sliceExamples } from '../data/examples.ts';
import { EVALUATION_BATCH } from '../evaluate/evaluate.ts';
import { repeatDefaults } from '../profile/throughput.ts';
import { digestOf, type Slot, type StepCache } from '../step-cache.ts';
import type { TrainingRecipe } from '../train/recipe.ts';
import { BudgetSpent, type StepTimes } from './times.ts';
import type { PortOptions, PortStep, PortSteps, Throughput, UnnumberedVariant } from './types.ts';

/** What all steps of one porting share. */
export interface Port {
  readonly dataset: Dataset;
  readonly datasetDigest: string;
  readonly options: PortOptions;
  readonly steps: PortSteps;
  readonly cache: StepCache;
  readonly times: StepTimes;
  /** What distillation follows instead of each variant's base. */
  readonly teacher?: Model;
  /** On the clock's scale; infinite without a budget. */
  readonly deadlineMs: number;
  /** Whether variants are timed when they are finished; not by workers of many, beside which nothing can be measured. */
  readonly isMeasured: boolean;
  /** Tells the caller where a step stands. */
  readonly report: (
    step: PortStep,
    subject: string,
    state: 'running' | 'finished' | 'reused',
    detail?: unknown,
  ) => void;
}

/** What a step is done for. */
export interface Subject {
  /** In words. */
  readonly name: string;
  /** Whether it is done whatever is left of the budget: there is no family without its bases. */
  readonly isRequired?: boolean;
}

/** A finished variant that has no place in the family yet. */
export interface Candidate {
  readonly name: string;
  readonly model: Model;
  readonly bytes: Uint8Array;
  readonly latencyMs: Measurement;
  readonly variant: UnnumberedVariant;
}

/** Where a network's file tells its lineage and accuracy (JSON). */
export const LINEAGE_KEY = 'bonsai.lineage';

/** A step that may be done already. */
interface Step<T> {
  readonly step: PortStep;
  readonly subject: Subject;
  readonly slot: Slot<T>;
  /** What its time is in proportion to, in a unit of its kind. */
  readonly work: number;
  /** Estimated time of what has to follow for the step to have been of use. */
  readonly followUpMs?: number;
  readonly run: (report: (detail: unknown) => void) => Promise<T>;
}

/**
 * One step: its kept result, or the work and then its result kept. Reports either way; stops at an abort.
 * @throws BudgetSpent where it is not done yet and does not fit into what is left of the budget
 */
export async function runStep<T>(port: Port, given: Step<T>): Promise<T> {
  const { step, subject, slot, work, followUpMs = 0 } = given;
  const { options, times, report } = port;
  if (options.signal?.aborted)
    throw new BonsaiError(
      'aborted',
      `Porting was stopped before "${step}" of ${subject.name}. Finished steps are kept.`,
    );
  const kept = await slot.open();
  if (kept !== undefined) {
    if (kept.tookMs !== undefined) times.record(step, work, kept.tookMs);
    if (kept.isEarlier) report(step, subject.name, 'reused');
    return kept.result;
  }
  const startedMs = options.clock.nowMs();
  const estimateMs = (times.estimateMs(step, work) ?? 0) + followUpMs;
  if (!subject.isRequired && startedMs + estimateMs >= port.deadlineMs)
    throw new BudgetSpent(step, subject.name, estimateMs);
  report(step, subject.name, 'running');
  const result = await given.run((detail) => report(step, subject.name, 'running', detail));
  const tookMs = options.clock.nowMs() - startedMs;
  times.record(step, work, tookMs);
  await slot.save(result, tookMs);
  report(step, subject.name, 'finished');
  return result;
}

/** What a network's channels are scored by: gathered where the criterion sees data, else as the options say. */
export async function criterionFor(
  port: Port,
  subject: Subject,
  model: Model,
  criterion: CriterionName | Criterion,
): Promise<CriterionName | Criterion> {
  const { options, steps, cache, dataset, datasetDigest } = port;
  const importance = options.pruning?.importance;
  if (typeof criterion !== 'string' || !isDataCriterion(criterion)) return criterion;
  const { seed, signal } = options;
  const gather = steps.importance;
  if (gather === undefined) {
    throw new InvalidArgumentError(
      `The criterion "${criterion}" sees data: the step \`importance\` has to be given.`,
    );
  }
  const network = digestOf(writeModel(model));
  const scores = await runStep(port, {
    step: 'importance',
    subject,
    slot: cache.json<Record<string, number[]>>(
      cache.key('importance', { network, dataset: datasetDigest, criterion, importance, seed }),
    ),
    work: countCost(model).macs,
    run: async () => {
      const gathered = await gather(criterion, model, dataset.train, { ...importance, seed, signal });
      const { groups } = dependencyGroups(foldConstants(model));
      return Object.fromEntries(groups.map((group) => [group.key, Array.from(gathered.scores(group))]));
    },
  });
  return recordedCriterion(criterion, scores);
}

/** What removed channels are made up for with where there is no BatchNormalization; undefined where there is, or no step. */
export async function meansFor(
  port: Port,
  subject: Subject,
  model: Model,
): Promise<ChannelMeans | undefined> {
  const { options, steps, cache, dataset, datasetDigest } = port;
  const { seed, signal } = options;
  const gather = steps.means;
  if (gather === undefined || hasBatchNorm(model)) return undefined;
  const means = await runStep(port, {
    step: 'means',
    subject,
    slot: cache.json<Record<string, number[]>>(
      cache.key('means', { network: digestOf(writeModel(model)), dataset: datasetDigest, seed }),
    ),
    work: countCost(model).macs,
    run: async () => {
      const gathered = await gather(model, dataset.train, { seed, signal });
      return Object.fromEntries([...gathered].map(([name, values]) => [name, Array.from(values)]));
    },
  });
  return new Map(Object.entries(means).map(([name, values]) => [name, Float64Array.from(values)]));
}

export async function reestimate(port: Port, subject: Subject, pruned: Model): Promise<Model> {
  const { options, steps, cache, dataset, datasetDigest } = port;
  const { seed, signal } = options;
  const measure = steps.reestimate;
  if (measure === undefined || !hasBatchNorm(pruned)) return pruned;
  const bytes = await runStep(port, {
    step: 'reestimate',
    subject,
    slot: cache.model(
      cache.key('reestimate', { network: digestOf(writeModel(pruned)), dataset: datasetDigest, seed }),
    ),
    work: countCost(pruned).macs,
    run: async () => writeModel(await measure(pruned, dataset.train, { seed, signal })),
  });
  return readModel(bytes);
}

export async function fineTune(
  port: Port,
  subject: Subject,
  pruned: Model,
  recipe: TrainingRecipe,
  teacher?: Model,
): Promise<Model> {
  const { options, steps, cache, dataset, datasetDigest } = port;
  const { seed, clock, onNotice } = options;
  const { macs } = countCost(pruned);
  const key = cache.key('fine-tune', {
    network: digestOf(writeModel(pruned)),
    dataset: datasetDigest,
    recipe,
    ...(teacher !== undefined && { teacher: digestOf(writeModel(teacher)) }),
    seed,
  });
  const bytes = await runStep(port, {
    step: 'fine-tune',
    subject,
    slot: cache.model(key),
    // A teacher only runs forwards, which is a third of a step.
    work: examplesOf(recipe, dataset) * (macs + (teacher === undefined ? 0 : countCost(teacher).macs / 3)),
    followUpMs: settlingMs(port, macs),
    run: async (report) => {
      const spent = new AbortController();
      const signals = [spent.signal, ...(options.signal === undefined ? [] : [options.signal])];
      const attempt = (number: number) =>
        steps.train(pruned, dataset, slower(recipe, number), {
          seed,
          checkpointPath: cache.checkpointPath(attemptKey(key, number)),
          ...(teacher !== undefined && { teacher }),
          signal: AbortSignal.any(signals),
          onProgress: (detail) => {
            report(detail);
            if (!subject.isRequired && clock.nowMs() >= port.deadlineMs) spent.abort();
          },
          onNotice,
        });
      for (let number = 0; ; number++) {
        try {
          return writeModel((await attempt(number)).model);
        } catch (thrown) {
          if (spent.signal.aborted && !options.signal?.aborted)
            throw new BudgetSpent('fine-tune', subject.name, 0);
          const isDivergence = thrown instanceof BonsaiError && thrown.code === 'training_diverged';
          if (!isDivergence || number === SLOWER_ATTEMPTS) throw thrown;
          const { learningRate } = slower(recipe, number + 1);
          onNotice?.(`Fine-tuning ${subject.name} diverged; once more at the learning rate ${learningRate}.`);
        }
      }
    },
  });
  for (let number = 0; number <= SLOWER_ATTEMPTS; number++)
    await cache.dropCheckpoint(attemptKey(key, number));
  return readModel(bytes);
}

/** Trainings that diverge are tried again so often, each time at a lower rate. */
export const SLOWER_ATTEMPTS = 3;
/** What divides the rate: three times make 64, which tames whatever can be. */
const SLOWER_FACTOR = 4;

function slower(recipe: TrainingRecipe, attempts: number): TrainingRecipe {
  return attempts === 0
    ? recipe
    : { ...recipe, learningRate: recipe.learningRate / SLOWER_FACTOR ** attempts };
}

/** Each attempt has a checkpoint of its own, so that an interruption repeats none of them. */
function attemptKey(key: string, attempts: number): string {
  return attempts === 0 ? key : `${key}-${attempts}`;
}

/** Passes of single examples at full resolution that a recipe amounts to. */
export function examplesOf({ phases }: Pick<TrainingRecipe, 'phases'>, { train }: Dataset): number {
  return phases.reduce((sum, { epochs, resolution = 1 }) => sum + epochs * resolution ** 2 * train.count, 0);
}

/** Estimated time from a trained network to a finished variant, as far as it is known. */
export function settlingMs({ times, dataset }: Port, macs: number): number {
  const examples = dataset.test.count + dataset.validation.count;
  return (
    (times.estimateMs('evaluate', examples * macs) ?? 0) +
    (times.estimateMs('latency', macs) ?? 0) +
    (times.estimateMs('throughput', 1) ?? 0)
  );
}

/** Of nothing; no family is made of variants that have it. */
const NOT_MEASURED: Measurement = {
  count: 0,
  mean: Number.NaN,
  median: Number.NaN,
  min: Number.NaN,
  max: Number.NaN,
};

/** Scores a trained network, writes its lineage into it, counts and times it. */
export async function finish(
  port: Port,
  subject: Subject,
  trained: Model,
  lineage: Lineage,
  known?: Pick<Variant, 'macs' | 'parameters'>,
): Promise<Candidate> {
  const { options, steps, cache } = port;
  const { signal, target } = options;
  const { macs, parameters } = known ?? countCost(trained);
  const accuracy = await scored(port, subject, trained, macs);
  const model = withMetadata(trained, { [LINEAGE_KEY]: JSON.stringify({ ...lineage, accuracy }) });
  const bytes = writeModel(model);
  const digest = digestOf(bytes);
  const unprofiled = {
    digest,
    sizeBytes: bytes.byteLength,
    accuracy,
    macs,
    parameters,
    lineage,
    profiles: {},
  };
  if (!port.isMeasured)
    return { name: subject.name, model, bytes, latencyMs: NOT_MEASURED, variant: unprofiled };
  const latencyMs = await runStep(port, {
    step: 'latency',
    subject,
    slot: cache.json<Measurement>(cache.key('latency', { network: digest, target: target.fingerprint })),
    work: macs,
    run: () => steps.latency(bytes, { signal }),
  });
  const profile = await profiled(port, subject, unprofiled, bytes, latencyMs);
  const variant = { ...unprofiled, ...(profile && { profiles: { [target.fingerprint]: profile } }) };
  return { name: subject.name, model, bytes, latencyMs, variant };
}

async function scored(
  port: Port,
  subject: Subject,
  model: Model,
  macs: number,
): Promise<Variant['accuracy']> {
  const { cache, dataset, datasetDigest } = port;
  const key = cache.key('evaluate', { network: digestOf(writeModel(model)), dataset: datasetDigest });
  const accuracy = await runStep(port, {
    step: 'evaluate',
    subject,
    slot: cache.json<Variant['accuracy']>(key),
    work: macs * (dataset.test.count + dataset.validation.count),
    run: async () => {
      const test = await shareRight(port, `${key}-test`, model, dataset.test);
      const validation =
        dataset.validation.count > 0
          ? await shareRight(port, `${key}-validation`, model, dataset.validation)
          : undefined;
      return {
        test: test.accuracy,
        testCount: test.count,
        ...(validation && { validation: validation.accuracy }),
      };
    },
  });
  for (const part of ['test', 'validation']) await cache.drop(`${key}-${part}`);
  return accuracy;
}

/** Scoring keeps what it has about this often, so that an interruption costs no more. */
export const SCORING_PART_MS = 4000;
/** Examples of the first part, whose time says how long the next ones may be. */
const FIRST_PART = 4 * EVALUATION_BATCH;

/** Share of right answers, counted in parts that are kept. Parts are whole batches, so they change nothing. */
async function shareRight(
  port: Port,
  key: string,
  model: Model,
  split: Split,
): Promise<{ accuracy: number; count: number }> {
  const { options, steps, cache } = port;
  const { clock, signal } = options;
  const slot = cache.scratch<{ done: number; right: number }>(key);
  let { done, right } = (await slot.load()) ?? { done: 0, right: 0 };
  let size = FIRST_PART;
  while (done < split.count) {
    const startedMs = clock.nowMs();
    const part = sliceExamples(split, done, Math.min(split.count, done + size));
    const { accuracy, count } = await steps.evaluate(model, part, { signal });
    right += Math.round(accuracy * count);
    done += count;
    await slot.save({ done, right });
    const growth = Math.min(8, SCORING_PART_MS / Math.max(1, clock.nowMs() - startedMs));
    size = EVALUATION_BATCH * Math.max(1, Math.floor((size * growth) / EVALUATION_BATCH));
  }
  return { accuracy: right / done, count: done };
}

async function profiled(
  port: Port,
  subject: Subject,
  variant: UnnumberedVariant,
  bytes: Uint8Array,
  latencyMs: Measurement,
): Promise<Profile | undefined> {
  const { options, steps, cache } = port;
  const { target, clock, onNotice } = options;
  const { throughput } = steps;
  if (throughput === undefined) return undefined;
  const measured = await runStep(port, {
    step: 'throughput',
    subject,
    slot: cache.json<Throughput & { measuredAt: string }>(
      cache.key('throughput', { network: variant.digest, target: target.fingerprint }),
    ),
    work: 1,
    run: async () => ({
      ...(await throughput(bytes)),
      measuredAt: new Date(clock.epochMs()).toISOString(),
    }),
  });
  const { min, max } = measured.throughputRps;
  if (max > min * repeatDefaults.spreadLimit) {
    onNotice?.(
      `The throughput of ${subject.name} varied by ${(max / min).toFixed(2)} between repetitions: something else kept this machine busy. ` +
        'Measure again when it is quiet: bonsai profile.',
    );
  }
  return { target, latencyMs, ...measured };
}

export function digestOfDataset(dataset: Dataset): string {
  const hash = createHash('sha256').update(JSON.stringify([dataset.name, dataset.classes, dataset.shape]));
  for (const split of [dataset.train, dataset.validation, dataset.test])
    hash.update(identityOf(split)).update(split.labels);
  return hash.digest('hex');
}
