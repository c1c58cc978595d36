import { BonsaiError } from '../../base/errors.ts';
import { float32Tensor, floatsOf, int64Tensor, scalarTensor, type Tensor } from '../../base/tensor.ts';
import { probeBlockSize } from '../../engine/probe-block.ts';
import { Session } from '../../engine/session.ts';
import type { Model } from '../../graph/model.ts';
import { readModel } from '../../graph/onnx/read.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { inferTypes } from '../../ops/infer.ts';
import { PLAIN_SGD } from '../../transform/autodiff/optimizer.ts';
import {
  buildTrainingStep,
  readParameters,
  type TrainingStep,
} from '../../transform/autodiff/training-step.ts';
import { lowerTrainingStep } from '../../transform/lower/lower.ts';
import { BATCH_NORM_SCALE_INPUT } from '../../transform/prune/importance/criterion.ts';
import { type Batch, batchOf } from '../data/batch.ts';
import type { Dataset, Split } from '../data/data-module.ts';
import { checkImageShape } from '../data/examples.ts';
import { imageShapeOf } from '../evaluate/evaluate.ts';
import type { JobContext } from '../worker-job.ts';
import { checkLabels, type Gathered, type GatherJob } from './gather.ts';

/** The gathering itself: runs every mini-batch and adds up. Blocks its thread. */
export async function gatherStatistics(context: JobContext<GatherJob, never>): Promise<Gathered> {
  const { input: job } = context;
  return job.kind === 'gradients' ? gatherGradients(context, job) : gatherMeans(context, job);
}

/**
 * Gradients come from a training step: without momentum and decay its next velocity is the gradient itself, and at
 * learning rate 0 the parameters stay.
 */
async function gatherGradients(context: JobContext<GatherJob, never>, job: GatherJob): Promise<Gathered> {
  const model = readModel(job.model);
  const shape = imageShapeOf(model.graph.inputs[0]?.type?.shape);
  const step = buildTrainingStep(model, {
    batch: job.batch,
    inputShape: shape,
    optimizer: PLAIN_SGD,
  });
  checkLabels(job.split, classesOf(model, [job.batch, ...shape]));
  const { parameters, state } = readParameters(model, step);
  const pairs = scaleAndShift(model, step);
  const squares = new Float64Array(step.parameterCount);
  const gates = new Map(pairs.map(({ gamma }) => [gamma.name, new Float64Array(gamma.size)]));
  const feeds: Record<string, Tensor> = {
    learning_rate: scalarTensor(0),
    parameters: float32Tensor([parameters.length], parameters),
    velocity: float32Tensor([parameters.length], new Float32Array(parameters.length)),
  };
  for (const slot of step.state) feeds[`state/${slot.name}`] = float32Tensor(slot.shape, state[slot.name]!);
  const lowered = lowerTrainingStep(step.model, { block: job.block ?? (await probeBlockSize()) });
  const session = await Session.create(writeModel(lowered), { intraOpThreads: job.threads });
  try {
    for (const batch of miniBatches(context, job, shape)) {
      const results = await session.run(
        {
          ...feeds,
          [step.model.graph.inputs[0]!.name]: float32Tensor(batch.shape, batch.images),
          label: int64Tensor(Array.from(batch.labels)),
        },
        ['velocity_next'],
      );
      const gradient = floatsOf(results.velocity_next!);
      for (let i = 0; i < squares.length; i++) {
        const product = gradient[i]! * parameters[i]!;
        squares[i]! += product * product;
      }
      for (const { gamma, beta } of pairs) {
        const sums = gates.get(gamma.name)!;
        for (let c = 0; c < sums.length; c++) {
          const [g, b] = [gamma.offset + c, beta.offset + c];
          sums[c]! += (parameters[g]! * gradient[g]! + parameters[b]! * gradient[b]!) ** 2;
        }
      }
    }
  } finally {
    await session.release();
  }
  const byName = step.parameters.map(
    ({ name, offset, size }) => [name, squares.slice(offset, offset + size)] as const,
  );
  return { squares: new Map(byName), gates, means: new Map() };
}

/** The slots of γ and β of every BatchNormalization whose both are trained. */
function scaleAndShift(model: Model, step: TrainingStep) {
  const slots = new Map(step.parameters.map((slot) => [slot.name, slot]));
  return model.graph.nodes.flatMap((node) => {
    if (node.opType !== 'BatchNormalization') return [];
    const gamma = slots.get(node.inputs[BATCH_NORM_SCALE_INPUT] ?? '');
    const beta = slots.get(node.inputs[BATCH_NORM_SCALE_INPUT + 1] ?? '');
    return gamma && beta ? [{ gamma, beta }] : [];
  });
}

/** The length of the logits; a training step could be built, so it is known. */
function classesOf(model: Model, inputShape: readonly number[]): number {
  const { inputs, outputs } = model.graph;
  const { types } = inferTypes(model, { inputs: { [inputs[0]!.name]: inputShape } });
  return Number(types.get(outputs[0]!.name)?.shape?.[1]);
}

async function gatherMeans(
  context: JobContext<GatherJob, never>,
  job: GatherJob & { readonly kind: 'means' },
): Promise<Gathered> {
  const model = readModel(job.model);
  const [input] = model.graph.inputs;
  const means = new Map<string, Float64Array>();
  const session = await Session.create(job.model, { intraOpThreads: job.threads });
  try {
    for (const batch of miniBatches(context, job, imageShapeOf(input?.type?.shape))) {
      const results = await session.run({ [input!.name]: float32Tensor(batch.shape, batch.images) });
      for (const output of job.outputs) {
        const values = floatsOf(results[output]!);
        const sums = means.get(output) ?? new Float64Array(values.length);
        for (const [i, value] of values.entries()) sums[i]! += (value * job.batch) / job.split.count;
        means.set(output, sums);
      }
    }
  } finally {
    await session.release();
  }
  return { squares: new Map(), gates: new Map(), means };
}

/** @throws BonsaiError `aborted` between two of them, `shape_mismatch` where the images are of another size */
export function* miniBatches(
  context: Pick<JobContext<unknown, never>, 'isStopRequested'>,
  { split, batch }: { readonly split: Split; readonly batch: number },
  shape: Dataset['shape'],
): Generator<Batch> {
  checkImageShape(split, shape);
  for (let from = 0; from + batch <= split.count; from += batch) {
    if (context.isStopRequested()) throw new BonsaiError('aborted', 'Stopped on request.');
    yield batchOf(
      { shape },
      split,
      Array.from({ length: batch }, (_, i) => from + i),
    );
  }
}
