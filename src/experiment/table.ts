import { coallocation } from './coallocation/experiment.ts';
import { coallocationProfile } from './coallocation-profile/experiment.ts';
import { complexity } from './complexity/experiment.ts';
import { distributed } from './distributed/experiment.ts';
import type { AnyExperiment } from './experiment.ts';
import { explodingQueue } from './exploding-queue/experiment.ts';
import { infaas } from './infaas/experiment.ts';
import { league } from './league/experiment.ts';
import { metrics } from './metrics/experiment.ts';
import { singleTask } from './single-task/experiment.ts';

/** In the order of the thesis; the league, which it has not, last. */
export const EXPERIMENTS: readonly AnyExperiment[] = [
  complexity,
  metrics,
  coallocationProfile,
  explodingQueue,
  infaas,
  singleTask,
  coallocation,
  distributed,
  league,
];
