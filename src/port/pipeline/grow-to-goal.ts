import { BonsaiError } from '../../base/errors.ts';
import type { Model } from '../../graph/model.ts';
import { readModel } from '../../graph/onnx/read.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { countCost } from '../../ops/count.ts';
import { foldConstants } from '../../transform/passes/fold-constants.ts';
import { formatGoal, type Goal, type ShareGoal } from '../../transform/prune/goal.ts';
import { dependencyGroups } from '../../transform/prune/groups.ts';
import type { Criterion } from '../../transform/prune/importance/criterion.ts';
import type { CriterionName } from '../../transform/prune/importance/table.ts';
import { pruneDefaults, pruningOf } from '../../transform/prune/prune.ts';
import { type GoalMeasure, type GoalResult, pruneToGoal } from '../goal.ts';
import { digestOf } from '../step-cache.ts';
import { lineageOf, recipeFor } from './branch.ts';
import { nameOfCriterion } from './plan.ts';
import {
  type Candidate,
  criterionFor,
  fineTune,
  finish,
  type Port,
  reestimate,
  runStep,
  type Subject,
} from './steps.ts';
import type { Throughput } from './types.ts';

/** What came of a goal: a variant, or why there is none. */
export type GrownToGoal =
  | { readonly kind: 'grown'; readonly candidate: Candidate }
  | { readonly kind: 'unmet'; readonly reason: string };

/**
 * Makes a variant that meets a goal: widths are searched for (`pruneToGoal`), then repaired, fine-tuned and finished as
 * those of a ratio are. Throughput means that of the server on the porting's target, where the step is given.
 */
export async function growToGoal(
  port: Port,
  subject: Subject,
  goal: Goal,
  from: {
    /** What distillation follows, unless the porting has a teacher. */
    readonly base: Pick<Candidate, 'model'>;
    readonly parent: Pick<Candidate, 'name' | 'model' | 'variant'>;
    readonly criterion: CriterionName | Criterion;
    readonly isDistilled: boolean;
    /** Whether a share is a bound: at most so much is left, not at least. Speed is a bound anyway. */
    readonly isBound?: boolean;
  },
): Promise<GrownToGoal> {
  const { options, cache } = port;
  const { base, parent, criterion: given } = from;
  const { align = pruneDefaults.align, maxRatio } = options.pruning ?? {};
  const criterion = await criterionFor(port, subject, parent.model, given);
  const name = nameOfCriterion(given);
  const server = serverMeasure(port);
  let bytes: Uint8Array;
  try {
    bytes = await runStep(port, {
      step: 'goal',
      subject,
      slot: cache.model(
        cache.key('goal', {
          network: parent.variant.digest,
          goal: formatGoal(goal),
          criterion: name,
          dataset: port.datasetDigest,
          align,
          ...(maxRatio !== undefined && { maxRatio }),
          ...(from.isBound && { isBound: true }),
          // Shares are counted; the rest is measured.
          ...(!('share' in goal) && { target: options.target.fingerprint }),
        }),
      ),
      work: countCost(parent.model).macs,
      run: async (report) => {
        const search = (aim: Goal) =>
          pruneToGoal(parent.model, aim, {
            criterion,
            align,
            maxRatio,
            cache,
            signal: options.signal,
            onProgress: report,
            ...(goal.kind === 'throughput' && { measure: server.measure }),
          });
        const found = from.isBound && 'share' in goal ? withinShare(goal, search) : search(goal);
        return writeModel((await found).model);
      },
    });
  } catch (thrown) {
    if (!(thrown instanceof BonsaiError) || !UNREACHABLE.has(thrown.code)) throw thrown;
    await server.forget();
    return { kind: 'unmet', reason: thrown.message };
  }
  const pruned = readModel(bytes);
  const ratio = removedRatio(pruned);
  if (ratio === removedRatio(parent.model)) {
    return { kind: 'unmet', reason: `It is met by ${parent.name} as it is.` };
  }
  const distillation = from.isDistilled ? options.distillation : undefined;
  const teacher = distillation === undefined ? undefined : (port.teacher ?? base.model);
  const recipe = recipeFor(options.recipe(ratio), distillation);
  const tuned = await fineTune(port, subject, await reestimate(port, subject, pruned), recipe, teacher);
  const lineage = lineageOf(port, parent, recipe, { distillation, teacher });
  const pruning = { criterion: name, scope: 'goal', ratio, align, goal: formatGoal(goal) };
  return { kind: 'grown', candidate: await finish(port, subject, tuned, { ...lineage, pruning }) };
}

/** Narrower and narrower until no more than the share is left: widths come in blocks, and the search may end above its aim. */
async function withinShare(
  goal: ShareGoal,
  search: (aim: ShareGoal) => Promise<GoalResult>,
): Promise<GoalResult> {
  let { share: aim } = goal;
  for (;;) {
    const result = await search({ ...goal, share: aim });
    const left = result.share ?? 0; // Results of share goals have it.
    if (left <= goal.share) return result;
    aim *= Math.min(SHARE_STEP, goal.share / left);
  }
}

/** Each round aims lower by this at least, until `pruneToGoal` says that nothing narrower exists. */
const SHARE_STEP = 0.97;

/** What a goal that cannot be had ends with. */
const UNREACHABLE: ReadonlySet<string> = new Set(['unsupported', 'invalid_argument', 'empty_group']);

/**
 * The time of a whole network as the server's clients see it at saturation. Each measurement is kept for the case of an
 * interruption; a search that failed, perhaps for their noise, has to forget them.
 */
function serverMeasure({ steps, cache, options }: Port): {
  readonly measure: Partial<GoalMeasure>;
  readonly forget: () => Promise<void>;
} {
  const { throughput } = steps;
  const used: string[] = [];
  const network = async (bytes: Uint8Array) => {
    const key = cache.key('goal-throughput', {
      network: digestOf(bytes),
      target: options.target.fingerprint,
    });
    used.push(key);
    const slot = cache.json<Throughput>(key);
    const measured = (await slot.load()) ?? (await throughput!(bytes)); // Only called where it is given.
    await slot.save(measured);
    return 1000 / measured.throughputRps.median;
  };
  return {
    measure: throughput === undefined ? {} : { network },
    async forget() {
      for (const key of used) await cache.drop(key);
    },
  };
}

/** Share of all channels of a network's groups that are gone, by what its file remembers of the widths before. */
function removedRatio(model: Model): number {
  const { groups } = dependencyGroups(foldConstants(model));
  const before = pruningOf(model)?.channels ?? {};
  let [whole, left] = [0, 0];
  for (const { key, channels } of groups) {
    whole += Math.max(before[key] ?? channels, channels);
    left += channels;
  }
  return whole === 0 ? 0 : Number((1 - left / whole).toFixed(4));
}
