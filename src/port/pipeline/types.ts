import type { Clock } from '../../base/clock.ts';
import type { Model } from '../../graph/model.ts';
import type { CostMetric, Measurement, Target, Variant } from '../../repository/types.ts';
import type { ChannelMeans } from '../../transform/prune/compensate.ts';
import type { Goal } from '../../transform/prune/goal.ts';
import type { Criterion, GroupOptions } from '../../transform/prune/importance/criterion.ts';
import type { CriterionName, DataCriterionName } from '../../transform/prune/importance/table.ts';
import type { PruneOptions } from '../../transform/prune/prune.ts';
import type { IterationOptions } from '../../transform/prune/schedule.ts';
import type { Dataset, Split } from '../data/data-module.ts';
import type { SharedSteps } from '../step-cache.ts';
import type { TrainingRecipe } from '../train/recipe.ts';
import type { Chain } from './plan.ts';

export interface PortOptions {
  /** Shares of channels removed relative to the base, ascending, each in (0, 1). */
  readonly ratios: readonly number[];
  /** What makes a channel unimportant; each one makes branches of its own. Default: that of `pruning`. */
  readonly criteria?: readonly (CriterionName | Criterion)[];
  /** Variants made to measure beside those of the ratios: from the first base, by the first criterion. */
  readonly goals?: readonly Goal[];
  /** What each variant is pruned from. Default 'nearest'. */
  readonly chain?: Chain;
  readonly pruning?: Omit<PruneOptions, 'ratio' | 'kept'>;
  /**
   * Rounds in which each variant is pruned and fine-tuned, its epochs spread evenly over them. Default: one round.
   */
  readonly iterations?: IterationOptions;
  /** How to fine-tune the variant of a ratio; part of the key under which the result is kept. */
  readonly recipe: (ratio: number) => TrainingRecipe;
  /** Fine-tuning that follows a teacher's answers as well as the labels. Absent: labels only. */
  readonly distillation?: PortDistillation;
  /**
   * Whether a twin of each variant in 8-bit integers is tried. It joins the family only if it measures faster than the
   * variant itself. Default false.
   */
  readonly int8?: boolean;
  /**
   * Whether pixels are normalised by the data's mean and deviation before a base that Bonsai did not make. 'auto'
   * (default): as it answers more of the validation examples right.
   */
  readonly normalizeInput?: boolean | 'auto';
  /** A network of the family that the bases join: their inputs and outputs get its names. By default those of the first base. */
  readonly namesOf?: Model;
  /**
   * Which variants the family keeps beside the bases. 'frontier' (default): those that are on the frontier of any
   * metric; 'all'.
   */
  readonly keep?: 'frontier' | 'all';
  readonly seed: number;
  readonly target: Target;
  /** Where finished steps leave their results. */
  readonly workDirectory: string;
  /** Where finished steps of other machines are, and those of this one go. */
  readonly sharedSteps?: SharedSteps;
  /** Dates profiles, and measures how long steps take. */
  readonly clock: Clock;
  /** Time after which no step is begun that would end later, and fine-tuning stops with a checkpoint. */
  readonly budgetMs?: number;
  /** The metric by which the returned frontier is drawn. Default 'flops', known without throughput. */
  readonly frontierMetric?: CostMetric;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: PortProgress) => void;
  /** Called with all variants found so far, whenever there is one more. */
  readonly onFound?: (found: readonly FoundVariant[]) => void;
  /** Sentences that the user should read, for instance that a ratio was skipped. */
  readonly onNotice?: (message: string) => void;
}

export interface PortDistillation {
  /** The network to follow. Default: the base of each variant. */
  readonly teacher?: Model;
  readonly temperature: number;
  /** Weight of the teacher's answers against the labels, in [0, 1]. */
  readonly weight: number;
  /** Whether each variant is also made without. Default false. */
  readonly alsoWithout?: boolean;
}

/** The parts that do the work or touch the world; `standardSteps` gives all but `write` and `throughput`. */
export interface PortSteps {
  train(
    model: Model,
    dataset: Dataset,
    recipe: TrainingRecipe,
    options: {
      readonly seed: number;
      readonly checkpointPath: string;
      /** Given where the recipe distils. */
      readonly teacher?: Model;
      readonly signal?: AbortSignal;
      readonly onProgress: (detail: unknown) => void;
      readonly onNotice?: (message: string) => void;
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
  /**
   * Means of what layers read, for networks without BatchNormalization: what removed channels gave on average goes into
   * biases (`compensateMeans`). Absent: nothing does.
   */
  means?(
    model: Model,
    split: Split,
    options: { readonly seed: number; readonly signal?: AbortSignal },
  ): Promise<ChannelMeans>;
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
  /** Maximal throughput of a network, through the server; called while nothing else runs. */
  throughput?(model: Uint8Array): Promise<Throughput>;
  /** Puts the family into a repository: while it grows, each time that it has changed, and in the end. */
  write(family: Family): Promise<void>;
}

export interface Throughput {
  readonly throughputRps: Measurement;
  /** Concurrency at which throughput stopped rising. */
  readonly concurrency: number;
  /** See `Profile`. */
  readonly unbatchedRps?: Measurement;
}

/** A variant that has no place in its family yet. */
export type UnnumberedVariant = Omit<Variant, 'version'>;

export interface Family {
  /** Ascending by version. */
  readonly variants: readonly Variant[];
  /** The ONNX file of each version. */
  readonly models: ReadonlyMap<number, Uint8Array>;
  readonly latencies: ReadonlyMap<number, Measurement>;
  /** Versions on the frontier, most accurate first. */
  readonly frontier: readonly number[];
  /** 'growing' while there is more to come, 'partial' where the budget was spent before all was done. */
  readonly state: 'growing' | 'partial' | 'complete';
}

/** A variant as it is found, whether or not the family keeps it. */
export interface FoundVariant {
  /** Such as "base" or "ratio 0.5, taylor". */
  readonly name: string;
  readonly variant: UnnumberedVariant;
  readonly latencyMs: Measurement;
  /** Whether it is on the frontier of any metric, as far as it is known. */
  readonly isOnFrontier: boolean;
}

export type PortStep =
  | 'normalize'
  | 'means'
  | 'goal'
  | 'importance'
  | 'reestimate'
  | 'fine-tune'
  | 'evaluate'
  | 'latency'
  | 'throughput'
  | 'quantize'
  | 'compare';

export interface PortProgress {
  readonly step: PortStep;
  /** What is worked on, such as "base" or "ratio 0.5, taylor". */
  readonly subject: string;
  /** Bases and planned variants that are settled, and how many there are. */
  readonly done: number;
  readonly total: number;
  readonly state: 'running' | 'finished' | 'reused';
  /** Estimated from finished steps, for all that comes after this variant; absent: nothing to estimate from yet. */
  readonly remainingMs?: number;
  /** What the step itself reports, for instance training's progress. */
  readonly detail?: unknown;
}
