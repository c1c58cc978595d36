import { chainOfVersions } from './allocation-chain.ts';
import { complexityArch } from './complexity-arch.ts';
import { explodingQueue } from './exploding-queue.ts';
import { frontier } from './frontier.ts';
import { oracleBound } from './oracle-bound.ts';
import { slots } from './slots.ts';
import { switchCost } from './switch-cost.ts';

/** Every figure of docs/concepts.md, by the name of its file. All follow from seeds and from the zoo's profiles. */
export const FIGURES: Readonly<Record<string, () => string | Promise<string>>> = {
  'allocation-chain': chainOfVersions,
  'complexity-arch': complexityArch,
  'exploding-queue': explodingQueue,
  frontier,
  'oracle-bound': oracleBound,
  slots,
  'switch-cost': switchCost,
};
