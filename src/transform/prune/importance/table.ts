import { InvalidArgumentError } from '../../../base/errors.ts';
import type { Model } from '../../../graph/model.ts';
import { type Criterion, checkedOptions, type GroupOptions } from './criterion.ts';
import { fpgmCriterion } from './fpgm.ts';
import { l1Criterion, l2Criterion } from './norm.ts';
import { randomCriterion } from './random.ts';
import { slimCriterion } from './slim.ts';

/** Criteria that need nothing but the network itself, and how each is made. */
const WEIGHT_TABLE = {
  l1: (_model, options) => l1Criterion(options),
  l2: (_model, options) => l2Criterion(options),
  fpgm: (_model, options) => fpgmCriterion(options),
  slim: (model, options) => slimCriterion(model, options),
  random: (_model, options) => randomCriterion(options.seed ?? DEFAULT_RANDOM_SEED),
} as const satisfies Record<string, (model: Model, options: WeightCriterionOptions) => Criterion>;

export type WeightCriterionName = keyof typeof WEIGHT_TABLE;

export const WEIGHT_CRITERIA: readonly WeightCriterionName[] = ['l1', 'l2', 'fpgm', 'slim', 'random'];

/** Criteria that run the network over data first (`port/importance/gather.ts`). */
export const DATA_CRITERIA = ['taylor', 'taylor-gate', 'apoz', 'mean-activation'] as const;
export type DataCriterionName = (typeof DATA_CRITERIA)[number];

export type CriterionName = WeightCriterionName | DataCriterionName;

/** All criteria, for help texts and option parsers. */
export const CRITERIA: readonly CriterionName[] = [...WEIGHT_CRITERIA, ...DATA_CRITERIA];

export interface WeightCriterionOptions extends GroupOptions {
  /** Of 'random'. Default `DEFAULT_RANDOM_SEED`. */
  readonly seed?: number;
}

/** Any number does; results with the default compare with each other. */
export const DEFAULT_RANDOM_SEED = 1;

/**
 * The criterion of that name for a network.
 * @throws InvalidArgumentError for a name that is none, or of a criterion that needs data, and choices that do not exist
 * @throws BonsaiError `unsupported` where the network lacks what the criterion reads
 */
export function weightCriterion(
  name: CriterionName,
  model: Model,
  options: WeightCriterionOptions = {},
): Criterion {
  if (isDataCriterion(name)) {
    throw new InvalidArgumentError(
      `The pruning criterion "${name}" needs data: gather it first (\`gatherCriterion\`, --data), or use one of ` +
        `${WEIGHT_CRITERIA.join(', ')}.`,
    );
  }
  if (!Object.hasOwn(WEIGHT_TABLE, name)) {
    throw new InvalidArgumentError(
      `There is no pruning criterion "${String(name)}"; there are ${CRITERIA.join(', ')}.`,
    );
  }
  checkedOptions(options); // Those that the criterion does not ask for, too.
  return WEIGHT_TABLE[name](model, options);
}

/** Whether a criterion has to see data before it can score. */
export function isDataCriterion(name: string): name is DataCriterionName {
  return (DATA_CRITERIA as readonly string[]).includes(name);
}
