import { BonsaiError } from '../../base/errors.ts';
import type { Dispatch, DispatchState } from '../dispatch.ts';
import type { Policy } from '../policy.ts';
import { slackFitDispatch } from '../slackfit.ts';
import { fallingBack, smallestDispatch } from './fallback.ts';
import { type WorkPlan, workPlanOf } from './plan.ts';
import { QueueProgram, type QueueProgramOptions } from './queue-program.ts';
import { decide, VariantCache, type WorkMdpConstants, workMdpDefaults } from './slow-loop.ts';
import { WorkSolver } from './value-function.ts';

export interface BonsaiOptions extends Partial<WorkMdpConstants>, Partial<QueueProgramOptions> {
  readonly fingerprint?: string;
}

export function bonsaiPolicy(options: BonsaiOptions = {}): Policy {
  const constants = { ...workMdpDefaults, ...options };
  const solver = new WorkSolver();
  const variants = new VariantCache(options.fingerprint);
  return {
    name: 'bonsai',
    metric: 'inverseThroughput',
    periodMs: constants.periodMs,
    decide: (state) => decide(state, constants, solver, variants),
    dispatch: bonsaiDispatch(options),
  };
}

export function bonsaiDispatch(options: Partial<QueueProgramOptions> = {}): Dispatch {
  const program = new QueueProgram(options);
  const planned: Dispatch = { name: 'bonsai', pick: (state) => program.pick(state, planIn(state)) };
  return fallingBack('bonsai', [planned, slackFitDispatch({ queueAware: true }), smallestDispatch]);
}

function planIn({ plan }: DispatchState): WorkPlan {
  const found = workPlanOf(plan);
  if (found === undefined) {
    throw new BonsaiError('not_ready', 'There is no plan yet: the policy has not decided.');
  }
  if (!isSound(found)) {
    throw new BonsaiError(
      'invalid_argument',
      'The plan holds values that are not numbers; the policy must decide anew.',
    );
  }
  return found;
}

/** A sum is NaN or infinite as soon as one value is. */
function isSound({ values, surges, stepMs, lateCost, tasks }: WorkPlan): boolean {
  if (!Array.isArray(tasks) || !Array.isArray(surges) || !(stepMs > 0) || values.length < 2) return false;
  let sum = stepMs + lateCost;
  for (const value of values) sum += value;
  for (const surge of surges) {
    if (surge.values.length !== values.length) return false;
    for (const value of surge.values) sum += value;
  }
  return Number.isFinite(sum);
}
