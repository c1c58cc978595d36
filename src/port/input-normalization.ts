import type { Model } from '../graph/model.ts';
import { NORMALIZATION_PREFIX } from '../ops/parameters.ts';
import { BACKBONE_METADATA_KEY } from './backbones/backbone.ts';
import type { Dataset, Split } from './data/data-module.ts';
import { sliceExamples } from './data/examples.ts';

/** Whether a network normalises its pixels itself, as Bonsai's own do. */
export function normalizesItself({ graph, metadata }: Model): boolean {
  if (metadata.has(BACKBONE_METADATA_KEY)) return true;
  return [...graph.initializers.keys()].some((name) => name.startsWith(NORMALIZATION_PREFIX));
}

/** Validation examples that decide whether a network wants its pixels normalised: far more than doubt allows for. */
const NORMALIZATION_EXAMPLES = 1000;

/** The shares of examples that a network answers right. */
export interface NormalizationScores {
  readonly plain: number;
  readonly normalized: number;
}

/** The examples by which it is decided whether pixels are normalised before a network that does not say. */
export function normalizationExamples({ validation, train }: Dataset): Split {
  const split = validation.count > 0 ? validation : train;
  return sliceExamples(split, 0, Math.min(split.count, NORMALIZATION_EXAMPLES));
}

/** @param score the share of the examples answered right, with pixels normalised or not */
export async function scoreNormalization(
  score: (normalize: boolean) => Promise<number>,
): Promise<NormalizationScores> {
  return { plain: await score(false), normalized: await score(true) };
}

/** @param subject what the network is called */
export function normalizationNotice(
  subject: string,
  { plain, normalized }: NormalizationScores,
  count: number,
): string {
  return (
    `Pixels ${normalized > plain ? 'are normalised' : 'go unchanged'} into ${subject}: ${percent(normalized)} of ` +
    `${count} examples right with normalisation, ${percent(plain)} without.`
  );
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
