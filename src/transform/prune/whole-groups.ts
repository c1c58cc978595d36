import { InvalidArgumentError } from '../../base/errors.ts';
import type { Model } from '../../graph/model.ts';
import { foldConstants } from '../passes/fold-constants.ts';
import { dependencyGroups, type Group } from './groups.ts';

/**
 * The groups that pruning should leave whole, as `PruneOptions.kept` wants them.
 * @throws InvalidArgumentError for a pattern that no producer's name matches
 */
export function wholeGroups(model: Model, selection: WholeSelection): Map<string, number> {
  const { groups } = dependencyGroups(foldConstants(model));
  const { inner = false, skip = [] } = selection;
  const patterns = skip.map((pattern) => ({ pattern, test: globTest(pattern) }));
  for (const { pattern, test } of patterns) {
    if (groups.some((group) => group.producers.some(test))) continue;
    const some = groups.slice(0, EXAMPLES).map(({ producers }) => producers[0]);
    throw new InvalidArgumentError(
      `No layer whose channels can be pruned is called "${pattern}"; there are ${some.join(', ')}${groups.length > EXAMPLES ? ' and more' : ''}.`,
    );
  }
  const isWhole = ({ producers }: Group) =>
    (inner && producers.length > 1) || patterns.some(({ test }) => producers.some(test));
  return new Map(groups.filter(isWhole).map(({ key, channels }) => [key, channels]));
}

export interface WholeSelection {
  /** Leaves groups that several layers make together whole, such as residual streams. */
  readonly inner?: boolean;
  /** Names of layers whose groups stay whole; `*` stands for any characters. */
  readonly skip?: readonly string[];
}

/** Names that a refusal shows. */
const EXAMPLES = 5;

function globTest(pattern: string): (name: string) => boolean {
  const parts = pattern.split('*').map((part) => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&'));
  const expression = new RegExp(`^${parts.join('.*')}$`, 's');
  return (name) => expression.test(name);
}
