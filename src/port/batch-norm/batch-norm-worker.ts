import { parentPort, workerData } from 'node:worker_threads';
import { float32Tensor, floatsOf, type Tensor } from '../../base/tensor.ts';
import { probeBlockSize } from '../../engine/probe-block.ts';
import { Session } from '../../engine/session.ts';
import { floatAttribute } from '../../graph/attributes.ts';
import type { Model } from '../../graph/model.ts';
import { readModel } from '../../graph/onnx/read.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { removeUnused } from '../../graph/walk.ts';
import { DEFAULT_MOMENTUM } from '../../ops/batch-normalization.ts';
import { PLAIN_SGD } from '../../transform/autodiff/optimizer.ts';
import { buildTrainingStep, readParameters } from '../../transform/autodiff/training-step.ts';
import { lowerTrainingStep } from '../../transform/lower/lower.ts';
import { imageShapeOf } from '../evaluate/evaluate.ts';
import { miniBatches } from '../importance/statistics.ts';
import { serveJob } from '../worker-job.ts';
import type { BatchNormAverages, BatchNormJob } from './batch-norm.ts';

// The worker thread of `reestimateBatchNorm`.
await serveJob<BatchNormJob, never, BatchNormAverages>(parentPort, workerData, async (context) => {
  const { input: job } = context;
  const model = readModel(job.model);
  const shape = imageShapeOf(model.graph.inputs[0]?.type?.shape);
  const step = buildTrainingStep(model, {
    batch: job.batch,
    inputShape: shape,
    optimizer: PLAIN_SGD,
  });
  const moving = step.state.filter(({ name }) => momentumOf(model, name) < 1);
  const image = step.model.graph.inputs[0]!.name;
  const forward = onlyOutputs(
    step.model,
    moving.map(({ name }) => `state_next/${name}`),
  );
  const { parameters } = readParameters(model, step);
  const feeds: Record<string, Tensor> = { parameters: float32Tensor([parameters.length], parameters) };
  // A step from 0 leaves (1 - momentum) times the statistics of its mini-batch.
  for (const { name, shape: size } of moving) {
    feeds[`state/${name}`] = float32Tensor(
      size,
      new Float32Array(size.reduce((product, n) => product * n, 1)),
    );
  }
  const lowered = lowerTrainingStep(forward, { block: job.block ?? (await probeBlockSize()) });
  const session = await Session.create(writeModel(lowered), { intraOpThreads: job.threads });
  const sums = new Map(moving.map(({ name, shape: [size = 1] }) => [name, new Float64Array(size)]));
  try {
    for (const batch of miniBatches(context, job, shape)) {
      const results = await session.run({ ...feeds, [image]: float32Tensor(batch.shape, batch.images) });
      for (const [name, sum] of sums) {
        for (const [i, value] of floatsOf(results[`state_next/${name}`]!).entries()) sum[i]! += value;
      }
    }
  } finally {
    await session.release();
  }
  const batches = job.split.count / job.batch;
  return new Map(
    [...sums].map(([name, sum]) => {
      const scale = 1 / (batches * (1 - momentumOf(model, name)));
      return [name, Float32Array.from(sum, (value) => value * scale)] as const;
    }),
  );
});

/** The momentum of the BatchNormalization whose running mean or variance this is. */
function momentumOf(model: Model, name: string): number {
  const node = model.graph.nodes.find(
    ({ opType, inputs }) => opType === 'BatchNormalization' && (inputs[3] === name || inputs[4] === name),
  );
  return node === undefined ? DEFAULT_MOMENTUM : floatAttribute(node, 'momentum', DEFAULT_MOMENTUM);
}

/** A graph cut down to some of its outputs, and the inputs that those need. */
function onlyOutputs(model: Model, names: readonly string[]): Model {
  const wanted = new Set(names);
  const graph = removeUnused({
    ...model.graph,
    outputs: model.graph.outputs.filter(({ name }) => wanted.has(name)),
  });
  const read = new Set(graph.nodes.flatMap((node) => node.inputs));
  return { ...model, graph: { ...graph, inputs: graph.inputs.filter(({ name }) => read.has(name)) } };
}
