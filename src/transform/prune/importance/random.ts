import { seededRandom } from '../../../base/random.ts';
import type { Criterion } from './criterion.ts';

/** Scores drawn uniformly from [0, 1), the same for a seed and a group's key: what every other criterion must beat. */
export function randomCriterion(seed: number): Criterion {
  return {
    name: 'random',
    scores(group) {
      const random = seededRandom(seed).fork(group.key);
      return Float64Array.from({ length: group.channels }, () => random.uniform());
    },
  };
}
