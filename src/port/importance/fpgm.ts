import { workerUrl } from '../../base/worker-url.ts';
import type { Model } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { foldConstants } from '../../transform/passes/fold-constants.ts';
import { dependencyGroups, type Group } from '../../transform/prune/groups.ts';
import {
  askedMembers,
  type Criterion,
  checkedOptions,
  type GroupOptions,
  recordedCriterion,
} from '../../transform/prune/importance/criterion.ts';
import { fpgmCriterion } from '../../transform/prune/importance/fpgm.ts';
import { runJob } from '../worker-job.ts';

/**
 * The criterion fpgm, with the distances of large networks computed by ONNX Runtime in a worker thread: a transformer's
 * take a hundred billion multiply-accumulates. Small networks are scored as `fpgmCriterion` does, when asked.
 * Both agree but for the rounding of float32.
 * @throws BonsaiError `unsupported` for weights that are no floats, `aborted`, `worker_lost`
 */
export async function fpgmByEngine(model: Model, options: FpgmOptions = {}): Promise<Criterion> {
  const { members, reduce, normalise } = checkedOptions(options);
  const { threads = 1, leastSteps = fpgmDefaults.leastSteps, signal } = options;
  const given = { members, reduce, normalise };
  const folded = foldConstants(model);
  const { groups } = dependencyGroups(folded);
  const steps = groups.reduce((sum, group) => sum + stepsOf(group, members), 0);
  if (steps < leastSteps) return fpgmCriterion(given);
  const job: FpgmJob = { model: writeModel(folded), options: given, threads };
  const url = workerUrl(import.meta.url, 'fpgm-worker');
  const scores = await runJob<FpgmJob, never, FpgmScores>(url, job, { signal });
  return recordedCriterion('fpgm', scores);
}

export interface FpgmOptions extends GroupOptions {
  /** Of ONNX Runtime. */
  readonly threads?: number;
  /** From how many multiply-accumulates on the engine computes. */
  readonly leastSteps?: number;
  readonly signal?: AbortSignal;
}

export const fpgmDefaults = {
  /** About two seconds without the engine; starting a worker and a copy of the network take one. */
  leastSteps: 2e9,
} as const satisfies FpgmOptions;

/** What the worker is given. */
export interface FpgmJob {
  /** ONNX bytes, constants folded. */
  readonly model: Uint8Array;
  readonly options: GroupOptions;
  readonly threads: number;
}

/** Scores of each group's channels, by `Group.key`. */
export type FpgmScores = Record<string, number[]>;

/** C² · D / 2 for each member that is asked. */
function stepsOf(group: Group, members: Required<GroupOptions>['members']): number {
  return askedMembers(group, members).reduce((sum, { tensor, axis, indices }) => {
    const slice = tensor.shape.reduce((product, size) => product * size, 1) / tensor.shape[axis]!;
    return sum + (group.channels * indices.length * slice) / 2;
  }, 0);
}
