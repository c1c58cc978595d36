import { parentPort, workerData } from 'node:worker_threads';
import { BonsaiError } from '../../base/errors.ts';
import { float32Tensor, floatsOf } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { readModel } from '../../graph/onnx/read.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { dependencyGroups, type Member } from '../../transform/prune/groups.ts';
import { askedMembers, checkedOptions } from '../../transform/prune/importance/criterion.ts';
import { centredRows, distanceSumsFrom, fpgmCriterion } from '../../transform/prune/importance/fpgm.ts';
import { serveJob } from '../worker-job.ts';
import type { FpgmJob, FpgmScores } from './fpgm.ts';

/** Rows of a product at a time: 3072 channels then take 12 MB of it, and still keep the engine busy. */
const ROWS = 1024;

// The worker thread of `fpgmByEngine`.
await serveJob<FpgmJob, never, FpgmScores>(parentPort, workerData, async ({ input, isStopRequested }) => {
  const { groups } = dependencyGroups(readModel(input.model));
  const { members } = checkedOptions(input.options);
  const session = await Session.create(writeModel(products()), { intraOpThreads: input.threads });
  try {
    const scores: FpgmScores = {};
    for (const group of groups) {
      const sums = new Map<Member, Float64Array>();
      for (const member of askedMembers(group, members))
        sums.set(member, await sumsOf(session, member, group.channels, isStopRequested));
      const criterion = fpgmCriterion(input.options, (member) => sums.get(member));
      scores[group.key] = Array.from(criterion.scores(group));
    }
    return scores;
  } finally {
    await session.release();
  }
});

async function sumsOf(
  session: Session,
  member: Member,
  channels: number,
  isStopRequested: () => boolean,
): Promise<Float64Array> {
  const { rows, length } = centredRows(member, channels);
  const all = float32Tensor([channels, length], rows);
  const sums = new Float64Array(channels);
  for (let from = 0; from < channels; from += ROWS) {
    if (isStopRequested()) throw new BonsaiError('aborted', 'Stopped on request.');
    const to = Math.min(channels, from + ROWS);
    const some = float32Tensor([to - from, length], rows.subarray(from * length, to * length));
    const { product } = await session.run({ some, all });
    distanceSumsFrom(floatsOf(product!), { rows, length, from, to }, sums);
  }
  return sums;
}

/** some · allᵀ */
function products() {
  const build = new GraphBuilder('products');
  const some = build.input('some', 'float32', ['B', 'D']);
  const all = build.input('all', 'float32', ['C', 'D']);
  build.output(build.op('Gemm', [some, all], { transB: 1 }, { outputs: ['product'] }), 'float32', ['B', 'C']);
  return modelOf(build.finish());
}
