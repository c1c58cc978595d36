import { InvalidArgumentError } from '../../base/errors.ts';
import type { Model } from '../../graph/model.ts';
import { readModel } from '../../graph/onnx/read.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import type { Lineage, Measurement } from '../../repository/types.ts';
import { type PruneResult, prune, pruneDefaults, pruningOf } from '../../transform/prune/prune.ts';
import { ratiosBetween } from '../../transform/prune/schedule.ts';
import { quantizationOf } from '../calibrate/quantize-network.ts';
import { digestOf } from '../step-cache.ts';
import type { TrainingRecipe } from '../train/recipe.ts';
import { type Branch, nameOfCriterion } from './plan.ts';
import {
  type Candidate,
  criterionFor,
  fineTune,
  finish,
  meansFor,
  type Port,
  reestimate,
  runStep,
  type Subject,
} from './steps.ts';
import type { PortDistillation } from './types.ts';

/** What came of a branch: a variant, or why there is none. */
export type Grown =
  | { readonly kind: 'grown'; readonly candidate: Candidate; readonly widths: string }
  /** Its rounded widths are those of a network that exists. */
  | { readonly kind: 'useless'; readonly widths: string; readonly isWhole: boolean };

/**
 * Makes a branch's variant: prune its parent, repair, fine-tune, finish.
 * @param known widths of the variants that there are of the same base, criterion and distillation
 */
export async function growBranch(
  port: Port,
  branch: Branch,
  subject: Subject,
  from: { readonly base: Candidate; readonly parent: Candidate; readonly known: ReadonlySet<string> },
): Promise<Grown> {
  const { options } = port;
  const { base, parent, known } = from;
  const { criterion, ratio } = branch;
  const pruned = prune(parent.model, {
    ...options.pruning,
    criterion: await criterionFor(port, subject, parent.model, criterion),
    means: await meansFor(port, subject, parent.model),
    ratio,
  });
  const widths = widthsOf(pruned, 'kept');
  const isWhole = widths === widthsOf(pruned, 'channels') && parent === base;
  if (isWhole || known.has(widths)) return { kind: 'useless', widths, isWhole };
  const distillation = branch.isDistilled ? options.distillation : undefined;
  const teacher = distillation === undefined ? undefined : (port.teacher ?? base.model);
  const recipe = recipeFor(options.recipe(ratio), distillation);
  const tuned = await pruneAndTune(port, branch, subject, { parent: parent.model, pruned, recipe, teacher });
  const { scope = 'uniform', align = pruneDefaults.align } = options.pruning ?? {};
  const lineage = lineageOf(port, parent, recipe, { distillation, teacher });
  const pruning = { criterion: nameOfCriterion(criterion), scope, ratio, align };
  return { kind: 'grown', candidate: await finish(port, subject, tuned, { ...lineage, pruning }), widths };
}

/** What fine-tuning is asked for, with a teacher's settings where there is one. */
export function recipeFor(
  recipe: TrainingRecipe,
  distillation: PortDistillation | undefined,
): TrainingRecipe {
  if (distillation === undefined) return recipe;
  const { temperature, weight } = distillation;
  return { ...recipe, distillation: { temperature, weight } };
}

/** How a fine-tuned network came to be, without its pruning. */
export function lineageOf(
  { options, dataset }: Port,
  parent: Pick<Candidate, 'variant'>,
  recipe: TrainingRecipe,
  distilled: {
    readonly distillation: PortDistillation | undefined;
    readonly teacher: Model | undefined;
  },
): Lineage {
  const { distillation, teacher } = distilled;
  return {
    parent: parent.variant.digest,
    backbone: parent.variant.lineage.backbone,
    dataset: dataset.name,
    seed: options.seed,
    epochs: recipe.phases.reduce((sum, phase) => sum + phase.epochs, 0),
    ...(distillation !== undefined &&
      teacher !== undefined && {
        distillation: {
          teacher: digestOf(writeModel(teacher)),
          temperature: distillation.temperature,
          weight: distillation.weight,
        },
      }),
  };
}

/**
 * The pruned network, repaired: with one round, BatchNormalization re-estimated and fine-tuned; with more, pruned
 * anew from the parent along the schedule, each round with its share of the epochs.
 */
async function pruneAndTune(
  port: Port,
  branch: Branch,
  subject: Subject,
  given: {
    readonly parent: Model;
    readonly pruned: PruneResult;
    readonly recipe: TrainingRecipe;
    readonly teacher: Model | undefined;
  },
): Promise<Model> {
  const { options } = port;
  const { parent, pruned, recipe, teacher } = given;
  const iterations = options.iterations ?? { schedule: 'one-shot', iterations: 1 };
  const rounds = ratiosBetween(pruningOf(parent)?.ratio ?? 0, branch.ratio, iterations);
  if (rounds.length === 1)
    return fineTune(port, subject, await reestimate(port, subject, pruned.model), recipe, teacher);
  const phases = recipe.phases.map((phase) => ({ ...phase, epochs: phase.epochs / rounds.length }));
  let model = parent;
  for (const ratio of rounds) {
    const criterion = await criterionFor(port, subject, model, branch.criterion);
    const means = await meansFor(port, subject, model);
    model = prune(model, { ...options.pruning, criterion, means, ratio }).model;
    model = await reestimate(port, subject, model);
    model = await fineTune(port, subject, model, { ...recipe, phases }, teacher);
  }
  return model;
}

/** How many times as fast as its float parent a twin in integers has to be: less is within the noise of measuring. */
export const INT8_MIN_SPEEDUP = 1.03;

/** A variant's twin in 8-bit integers, if it measures faster than the variant itself. */
export async function fasterTwin(
  port: Port,
  subject: Subject,
  parent: Candidate,
): Promise<Candidate | undefined> {
  const { options, steps, cache, dataset, datasetDigest } = port;
  const { quantize, compare } = steps;
  if (quantize === undefined || compare === undefined) {
    throw new InvalidArgumentError('With `int8`, the steps `quantize` and `compare` have to be given.');
  }
  const { signal, seed } = options;
  const { lineage, digest, macs, parameters } = parent.variant;
  const bytes = await runStep(port, {
    step: 'quantize',
    subject,
    slot: cache.model(cache.key('quantize', { network: digest, dataset: datasetDigest, seed })),
    work: macs,
    run: async () => writeModel((await quantize(parent.model, dataset, { seed, signal })).model),
  });
  const compareKey = cache.key('compare', {
    networks: [digest, digestOf(bytes)],
    target: options.target.fingerprint,
  });
  const [float, integer] = await runStep(port, {
    step: 'compare',
    subject,
    slot: cache.json<readonly Measurement[]>(compareKey),
    work: macs,
    run: () => compare([parent.bytes, bytes], { signal }),
  });
  const speedup = float!.median / integer!.median;
  if (!(speedup >= INT8_MIN_SPEEDUP)) {
    options.onNotice?.(
      `INT8 does not pay for ${subject.name}: ${integer!.median.toPrecision(3)} ms against ` +
        `${float!.median.toPrecision(3)} ms in floating point. Left out.`,
    );
    return undefined;
  }
  const model = readModel(bytes);
  const quantization = quantizationOf(model);
  const made = { ...lineage, parent: digest, ...(quantization && { quantization }) };
  const twin = { ...subject, name: `${subject.name}, int8` };
  return finish(port, twin, model, made, { macs, parameters });
}

/** The widths of all dependency groups as a text that compares, before or after pruning. */
function widthsOf({ groups }: PruneResult, which: 'channels' | 'kept'): string {
  return groups.map((group) => group[which]).join(',');
}
