import type { Clock } from '../../base/clock.ts';
import { BonsaiError, InvalidArgumentError } from '../../base/errors.ts';
import type { Model } from '../../graph/model.ts';
import { readModel } from '../../graph/onnx/read.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import type { Variant } from '../../repository/types.ts';
import { checkTrainable } from '../../transform/autodiff/parameters.ts';
import { formatGoal, type Goal } from '../../transform/prune/goal.ts';
import type { Criterion } from '../../transform/prune/importance/criterion.ts';
import type { CriterionName } from '../../transform/prune/importance/table.ts';
import { pruneDefaults } from '../../transform/prune/prune.ts';
import { reestimateBatchNorm } from '../batch-norm/batch-norm.ts';
import { quantizeNetwork } from '../calibrate/quantize-network.ts';
import type { Dataset } from '../data/data-module.ts';
import { evaluate } from '../evaluate/evaluate.ts';
import { gatherCriterion, gatherMeans } from '../importance/gather.ts';
import {
  type NormalizationScores,
  normalizationExamples,
  normalizationNotice,
  normalizesItself,
  scoreNormalization,
} from '../input-normalization.ts';
import { compareLatency } from '../profile/compare-latency.ts';
import { profileLatency } from '../profile/latency.ts';
import { digestOf, openStepCache, type Slot } from '../step-cache.ts';
import { trainNetwork } from '../train/train.ts';
import { backboneOf, openBase, withNamesOf } from './bases.ts';
import { fasterTwin, growBranch } from './branch.ts';
import { familyOf, foundOf } from './family.ts';
import { growToGoal } from './grow-to-goal.ts';
import { type Branch, checkRatios, describeBranch, nameOfCriterion, planBranches } from './plan.ts';
import { sharesOf } from './shares.ts';
import {
  type Candidate,
  digestOfDataset,
  examplesOf,
  finish,
  type Port,
  runStep,
  type Subject,
  settlingMs,
} from './steps.ts';
import { BudgetSpent, stepTimes } from './times.ts';
import type { Family, PortOptions, PortSteps, UnnumberedVariant } from './types.ts';

/**
 * Ports trained networks into one family. Every combination of base, criterion and ratio is a branch (`planBranches`):
 * prune, fine-tune, score on the test split, count, profile. Whatever is found is written at once, so that the repository
 * can serve while it grows. Every finished step leaves its result in the work folder under a digest of its inputs, and
 * long ones keep what they have every few seconds, so that a second run goes on where the first one ended; the
 * family is the same, however often it was interrupted (measured times aside).
 * A branch whose rounded widths are those of a variant that exists makes none: `onNotice` says so.
 * @param given the trained networks, or the only one; they are members of the family themselves
 * @returns the family, version 1 being the most accurate; of equally accurate variants the one with fewer MACs
 *   comes first, as on the frontier
 * @throws InvalidArgumentError for ratios that do not ascend within (0, 1) and bases that do not go together;
 *   `aborted`; and what the steps throw
 */
export async function portFamily(
  given: Model | readonly Model[],
  dataset: Dataset,
  options: PortOptions,
  steps: PortSteps,
): Promise<Family> {
  const models = modelsOf(given);
  const plan = planOf(models, options);
  const found: Candidate[] = [];
  const opened = openPort(dataset, options, steps, plan, () => found);
  const port = Object.assign(opened, await teacherOf(opened));
  const settle = async (candidate: Candidate, subject: Subject) => {
    found.push(candidate);
    await announce(port, found);
    if (!options.int8) return;
    const twin = await fasterTwin(port, subject, candidate);
    if (twin === undefined) return;
    found.push(twin);
    await announce(port, found);
  };

  const bases: Candidate[] = [];
  for await (const [base, subject] of finishedBases(port, models)) {
    bases.push(base);
    await withinBudget(port, () => settle(base, { ...subject, isRequired: false }));
  }

  for (const goal of options.goals ?? []) {
    const subject = { name: `goal ${formatGoal(goal)}` };
    const [base] = bases;
    port.settled++;
    await withinBudget(port, async () => {
      const outcome = await growToGoal(port, subject, goal, {
        base: base!, // `preparedBases` found one at least.
        parent: base!,
        ...firstChoice(options),
      });
      if (outcome.kind === 'grown') await settle(outcome.candidate, subject);
      else options.onNotice?.(`No variant for the ${subject.name}. ${outcome.reason}`);
    });
  }

  await growBranches(port, plan, plan, bases, settle);
  const family = familyOf(found, options, port.isCutShort ? 'partial' : 'complete');
  await steps.write(family);
  return family;
}

/** What a worker has done of a porting that several share. */
export interface PortedShare {
  /** Branches that were its own. */
  readonly branches: number;
  /** False where the budget was spent before all of them were made. */
  readonly isComplete: boolean;
  /** Whether all workers are through, so that `portFamily` finds all of it made. */
  readonly isLast: boolean;
}

/**
 * Does one of several shares of a porting (`sharesOf`): prunes, fine-tunes and scores, and leaves each finished step for
 * `portFamily` to find, which measures, quantises and puts the family together. That family is the same, whoever made what:
 * it goes through all of the plan, and does itself what it does not find.
 * @param options as for `portFamily`; workers have to see each other's steps, by the same `workDirectory` or `sharedSteps`
 * @throws as `portFamily`
 */
export async function portShare(
  given: Model | readonly Model[],
  dataset: Dataset,
  options: PortOptions,
  steps: Omit<PortSteps, 'write' | 'throughput'>,
  { index, count }: { readonly index: number; readonly count: number },
): Promise<PortedShare> {
  const models = modelsOf(given);
  const plan = planOf(models, options);
  const own = sharesOf(plan, count)[index]!;
  const found: Candidate[] = [];
  const port = openPort(
    dataset,
    { ...options, goals: [], int8: false },
    { ...steps, write: async () => {} },
    own,
    () => found,
    false,
  );
  const marks = Array.from({ length: count }, (_, i) => shareMark(port, models, { index: i, count }));
  if (own.length > 0 && (await marks[index]!.load()) === undefined) {
    Object.assign(port, await teacherOf(port));
    const bases: Candidate[] = [];
    for await (const [base] of finishedBases(port, models)) bases.push(base);
    found.push(...bases);
    await growBranches(port, own, plan, bases, async (candidate) => {
      found.push(candidate);
      const { test } = candidate.variant.accuracy;
      options.onNotice?.(`Made ${candidate.name}: ${percent(test)} of test examples right.`);
    });
  }
  if (port.isCutShort) return { branches: own.length, isComplete: false, isLast: false };
  await marks[index]!.save('done');
  for (const mark of marks)
    if ((await mark.load()) === undefined) return { branches: own.length, isComplete: true, isLast: false };
  return { branches: own.length, isComplete: true, isLast: true };
}

/** Where a worker leaves word that it is through: of this very porting, shared by so many. */
function shareMark(
  { cache, datasetDigest, options }: Port,
  models: readonly Model[],
  share: { readonly index: number; readonly count: number },
): Slot<string> {
  const { ratios, chain, pruning, iterations, recipe, distillation, normalizeInput, seed } = options;
  const digest = (model: Model | undefined) => model && digestOf(writeModel(model));
  return cache.json<string>(
    cache.key('share', {
      ...{ share, dataset: datasetDigest, networks: models.map(digest), names: digest(options.namesOf) },
      ...{ ratios, chain, pruning, iterations, normalizeInput, seed },
      criteria: criteriaOf(options).map(nameOfCriterion),
      recipes: ratios.map(recipe),
      ...(distillation && { distillation: { ...distillation, teacher: digest(distillation.teacher) } }),
    }),
  );
}

/** The bases as members of the family, in the order in which they were given, each as soon as it is there. */
async function* finishedBases(
  port: Port,
  models: readonly Model[],
): AsyncGenerator<readonly [Candidate, Subject]> {
  for (const [i, model] of (await preparedBases(port, models)).entries()) {
    const subject = { name: nameOfBase(i, models.length), isRequired: true };
    const lineage = { backbone: backboneOf(model), dataset: port.dataset.name };
    yield [await finish(port, subject, model, lineage), subject];
  }
}

/** Makes the variants of branches, which come after those that they are pruned from. @param plan that they are of */
async function growBranches(
  port: OpenPort,
  branches: readonly Branch[],
  plan: readonly Branch[],
  bases: readonly Candidate[],
  settle: (candidate: Candidate, subject: Subject) => Promise<void>,
): Promise<void> {
  const grown = new Map<number, Candidate>();
  const widths = new Map<string, Map<string, number>>();
  for (const branch of branches) {
    const base = bases[branch.base]!;
    const parent = branch.parent === undefined ? base : grown.get(branch.parent);
    port.settled++;
    if (parent === undefined) continue; // Its parent was not made: the budget was spent, or it could not be trained.
    const kind = kindOf(branch);
    const known = widths.get(kind) ?? new Map<string, number>();
    widths.set(kind, known);
    const subject = { name: describeBranch(branch, plan) };
    await withinBudget(port, async () => {
      const outcome = await growBranch(port, branch, subject, {
        base,
        parent,
        known: new Set(known.keys()),
      });
      if (outcome.kind === 'useless') {
        port.options.onNotice?.(
          uselessRatio(port.options, subject, outcome.isWhole ? 0 : known.get(outcome.widths)!),
        );
        grown.set(branch.index, parent);
        return;
      }
      known.set(outcome.widths, branch.ratio);
      grown.set(branch.index, outcome.candidate);
      await settle(outcome.candidate, subject);
    });
  }
}

/**
 * Makes one variant to measure from one of an existing family, by the first criterion. The goal is a bound: no more than its
 * share is left.
 * @returns the variant with its network; why there is none; or that the budget was spent before it was done
 * @throws as `portFamily`
 */
export async function portToGoal(
  parent: { readonly variant: Variant; readonly model: Uint8Array },
  goal: Goal,
  dataset: Dataset,
  options: PortOptions,
  steps: Omit<PortSteps, 'write'>,
): Promise<PortedToGoal> {
  const opened = openPort(
    dataset,
    { ...options, goals: [goal], ratios: [] },
    { ...steps, write: async () => {} },
    [],
    () => [],
  );
  const port = Object.assign(opened, await teacherOf(opened));
  const model = readModel(parent.model);
  const outcomes: PortedToGoal[] = [];
  port.settled++;
  await withinBudget(port, async () => {
    const grown = await growToGoal(port, { name: `goal ${formatGoal(goal)}` }, goal, {
      base: { model },
      parent: { name: `version ${parent.variant.version}`, model, variant: parent.variant },
      isBound: true,
      ...firstChoice(options),
    });
    if (grown.kind === 'unmet') outcomes.push(grown);
    else outcomes.push({ kind: 'grown', variant: grown.candidate.variant, model: grown.candidate.bytes });
  });
  return outcomes[0] ?? { kind: 'unfinished' };
}

export type PortedToGoal =
  | { readonly kind: 'grown'; readonly variant: UnnumberedVariant; readonly model: Uint8Array }
  | { readonly kind: 'unmet'; readonly reason: string }
  | { readonly kind: 'unfinished' };

/** Training, scoring and timing as Bonsai does them, each in a worker thread. */
export function standardSteps(options: {
  /** Threads for training and scoring; latency is always measured with one. */
  readonly threads: number;
  readonly latencyRuns?: number;
  /** For training's time left. */
  readonly clock?: Clock;
}): Omit<PortSteps, 'write' | 'throughput'> {
  const { threads, latencyRuns, clock } = options;
  return {
    quantize: (model, dataset, given) => quantizeNetwork(model, dataset, { ...given, threads }),
    compare: (models, given) =>
      compareLatency(models, { ...given, ...(latencyRuns !== undefined && { runs: latencyRuns }) }),
    means: (model, split, given) => gatherMeans(model, split, { ...given, threads }),
    importance: (name, model, split, given) => gatherCriterion(name, model, split, { ...given, threads }),
    reestimate: (model, split, given) => reestimateBatchNorm(model, split, { ...given, threads }),
    train: (model, dataset, recipe, given) =>
      trainNetwork(model, dataset, recipe, { ...given, threads, clock }),
    evaluate: (model, split, given) => evaluate(model, split, { ...given, threads }),
    latency: (model, given) =>
      profileLatency(model, { ...given, ...(latencyRuns !== undefined && { runs: latencyRuns }) }),
  };
}

/** The state of one porting: what steps share, and how far it is. */
interface OpenPort extends Port {
  /** Branches that are begun or settled. */
  settled: number;
  /** Steps that were done, not reused, since the family was last written. */
  worked: number;
  isCutShort: boolean;
}

function openPort(
  dataset: Dataset,
  options: PortOptions,
  steps: PortSteps,
  plan: readonly Branch[],
  found: () => readonly Candidate[],
  isMeasured = true,
): OpenPort {
  checkRatios(options.ratios);
  const port: OpenPort = {
    dataset,
    options,
    steps,
    isMeasured,
    cache: openStepCache(options.workDirectory, options.sharedSteps),
    datasetDigest: digestOfDataset(dataset),
    times: stepTimes(),
    deadlineMs: options.clock.nowMs() + (options.budgetMs ?? Number.POSITIVE_INFINITY),
    settled: 0,
    worked: 0,
    isCutShort: false,
    report(step, subject, state, detail) {
      if (state === 'finished') port.worked++;
      const goals = options.goals?.length ?? 0;
      const branches = plan.slice(Math.max(0, port.settled - goals));
      const remainingMs = remainingTime(port, branches, found());
      options.onProgress?.({
        step,
        subject,
        state,
        done: Math.max(0, port.settled - 1),
        total: plan.length + goals,
        ...(remainingMs !== undefined && { remainingMs }),
        ...(detail !== undefined && { detail }),
      });
    },
  };
  return port;
}

/** Time for branches that are still to come, by what those before took. A ratio r leaves about (1 - r)² of the work. */
function remainingTime(
  port: OpenPort,
  branches: readonly Branch[],
  found: readonly Candidate[],
): number | undefined {
  const { options, times, dataset } = port;
  const bases = found.filter(({ variant }) => variant.lineage.parent === undefined);
  let sum = 0;
  for (const { base, ratio } of branches) {
    const whole = bases[base]?.variant.macs;
    if (whole === undefined) return undefined;
    const macs = whole * (1 - ratio) ** 2;
    const tuning = times.estimateMs('fine-tune', examplesOf(options.recipe(ratio), dataset) * macs);
    if (tuning === undefined) return undefined;
    const integers = (times.estimateMs('quantize', macs) ?? 0) + (times.estimateMs('compare', macs) ?? 0);
    sum += tuning + settlingMs(port, macs) + integers;
  }
  return sum;
}

/** Tells of what was found, and puts it into the repository if it was not there when an earlier run ended. */
async function announce(port: OpenPort, found: readonly Candidate[]): Promise<void> {
  const { options, steps } = port;
  options.onFound?.(foundOf(found));
  if (port.worked === 0) return;
  port.worked = 0;
  await steps.write(familyOf(found, options, 'growing'));
}

/** Does a piece of work, as far as the budget allows. A variant that cannot be trained is no reason to make no others. */
async function withinBudget(port: OpenPort, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (thrown) {
    if (thrown instanceof BudgetSpent) {
      // Once: all that would follow does not fit either.
      if (!port.isCutShort) port.options.onNotice?.(thrown.message);
      port.isCutShort = true;
    } else if (thrown instanceof BonsaiError && thrown.code === 'training_diverged')
      port.options.onNotice?.(`Left out: ${thrown.message}`);
    else throw thrown;
  }
}

/** The bases as networks of one task: for any batch, fed alike, with the same names. */
async function preparedBases(port: Port, models: readonly Model[]): Promise<Model[]> {
  if (models.length === 0) throw new InvalidArgumentError('There is no network to port.');
  const prepared: Model[] = [];
  for (const [i, model] of models.entries()) {
    const subject = { name: nameOfBase(i, models.length), isRequired: true };
    const fed = openBase(model, port.dataset, await isNormalized(port, subject, model));
    const named = port.options.namesOf ?? prepared[0];
    prepared.push(named === undefined ? fed : withNamesOf(fed, named));
  }
  const digests = prepared.map((model) => digestOf(writeModel(model)));
  const twice = digests.findIndex((digest, i) => digests.indexOf(digest) !== i);
  if (twice >= 0) throw new InvalidArgumentError(`Base ${twice + 1} is the same network as one before it.`);
  return prepared;
}

/** The teacher of the options as a network that is fed as the bases are. */
async function teacherOf(port: Port): Promise<{ readonly teacher?: Model }> {
  const model = port.options.distillation?.teacher;
  if (model === undefined) return {};
  const subject = { name: 'teacher', isRequired: true };
  return { teacher: openBase(model, port.dataset, await isNormalized(port, subject, model)) };
}

/** Whether pixels are normalised before a base: as the options say, else as it answers more examples right. */
async function isNormalized(port: Port, subject: Subject, model: Model): Promise<boolean> {
  const { options, steps, cache, dataset, datasetDigest } = port;
  const { normalizeInput = 'auto', signal, onNotice } = options;
  if (normalizesItself(model)) return false;
  if (normalizeInput !== 'auto') return normalizeInput;
  const examples = normalizationExamples(dataset);
  const key = cache.key('normalize', { network: digestOf(writeModel(model)), dataset: datasetDigest });
  const scores = await runStep(port, {
    step: 'normalize',
    subject,
    slot: cache.json<NormalizationScores>(key),
    work: 1,
    run: () =>
      scoreNormalization(
        async (normalize) =>
          (await steps.evaluate(openBase(model, dataset, normalize), examples, { signal })).accuracy,
      ),
  });
  onNotice?.(normalizationNotice(subject.name, scores, examples.count));
  return scores.normalized > scores.plain;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

function nameOfBase(index: number, count: number): string {
  return count === 1 ? 'base' : `base ${index + 1}`;
}

function modelsOf(given: Model | readonly Model[]): readonly Model[] {
  const models = 'graph' in given ? [given] : given;
  models.forEach(checkTrainable); // Before minutes are spent on scoring and measuring it.
  return models;
}

function planOf(models: readonly Model[], options: PortOptions): readonly Branch[] {
  return planBranches({
    bases: models.length,
    ratios: options.ratios,
    criteria: criteriaOf(options),
    distilled: distilledOf(options),
    chain: options.chain ?? 'nearest',
  });
}

function criteriaOf({ criteria, pruning }: PortOptions): readonly (CriterionName | Criterion)[] {
  return criteria ?? [pruning?.criterion ?? pruneDefaults.criterion];
}

/** How variants are made that are made in one way only. */
function firstChoice(options: PortOptions): {
  readonly criterion: CriterionName | Criterion;
  readonly isDistilled: boolean;
} {
  const [criterion] = criteriaOf(options);
  if (criterion === undefined) throw new InvalidArgumentError('There is no criterion to prune by.');
  return { criterion, isDistilled: options.distillation !== undefined };
}

function distilledOf({ distillation }: PortOptions): boolean[] {
  if (distillation === undefined) return [false];
  return distillation.alsoWithout ? [false, true] : [true];
}

/** Branches of one kind differ in their ratio alone. */
function kindOf({ base, criterion, isDistilled }: Branch): string {
  return [base, nameOfCriterion(criterion), isDistilled].join();
}

/** @param ratio that of the variant with the same widths; 0: the base */
function uselessRatio({ pruning }: PortOptions, { name }: Subject, ratio: number): string {
  const align = pruning?.align ?? pruneDefaults.align;
  const what = `${name[0]!.toUpperCase()}${name.slice(1)}`;
  return ratio === 0
    ? `${what} removes nothing at alignment ${align}: skipped.`
    : `${what} has the widths of ratio ${ratio} at alignment ${align}: skipped.`;
}
