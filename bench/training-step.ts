import { performance } from 'node:perf_hooks';
import { seededRandom } from '../src/base/random.ts';
import { float32Tensor, int64Tensor, scalarTensor, type Tensor } from '../src/base/tensor.ts';
import { probeBlockSize } from '../src/engine/probe-block.ts';
import { Session } from '../src/engine/session.ts';
import { writeModel } from '../src/graph/onnx/write.ts';
import { countCost } from '../src/ops/count.ts';
import { backbone } from '../src/port/backbones/registry.ts';
import { buildTrainingStep, readParameters } from '../src/transform/autodiff/training-step.ts';
import { lowerTrainingStep } from '../src/transform/lower/lower.ts';

/**
 * How fast is a whole training step, and the forward pass alone at the same batch?
 * Prints ms, images per second and GMAC/s (median of runs; two threads, or the number given). A step is counted as
 * three forward passes of MACs. Run:
 * npx tsc -p tsconfig.json --noEmit false --outDir dist/bench && node dist/bench/bench/training-step.js [threads]
 */
const CASES: readonly [spec: string, batch: number, size: number][] = [
  ['resnet:widths=16-32-64,blocks=1-1-1', 32, 28],
  ['resnet:widths=16-32-64,blocks=2-2-2', 64, 28],
  ['resnet:widths=32-64-128,blocks=1-1-1', 32, 28],
  ['resnet:widths=64-128-256,blocks=2-2-2', 64, 14],
  ['resnet:widths=64-128-256,blocks=2-2-2', 128, 14],
  ['resnet:widths=64-128-256,blocks=2-2-2', 64, 28],
];
const RUNS = 5;
const block = await probeBlockSize();
const threads = Number(process.argv[2] ?? 2);

async function median(session: Session, feeds: Record<string, Tensor>): Promise<number> {
  await session.run(feeds);
  const times: number[] = [];
  for (let i = 0; i < RUNS; i++) {
    const start = performance.now();
    await session.run(feeds);
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b)[RUNS >> 1]!;
}

for (const [spec, batch, size] of CASES) {
  const random = seededRandom(1);
  const model = backbone(spec).build({
    inputShape: [1, size, size],
    classes: 10,
    normalization: { mean: [0.13], std: [0.31] },
    seed: 1,
  });
  const macs = countCost(model).macs * batch;
  const image = float32Tensor(
    [batch, 1, size, size],
    Float32Array.from({ length: batch * size * size }, () => random.uniform()),
  );
  const report = (name: string, ms: number, work: number) =>
    process.stdout.write(
      `${spec} N${batch} ${size}x${size} ${name}: ${ms.toFixed(0)} ms, ${((batch / ms) * 1e3).toFixed(0)} img/s, ${(work / ms / 1e6).toFixed(1)} GMAC/s\n`,
    );

  const inference = await Session.create(writeModel(model), { intraOpThreads: threads });
  report('forward', await median(inference, { image }), macs);
  await inference.release();

  const step = buildTrainingStep(model, {
    batch,
    optimizer: { name: 'sgd', momentum: 0.9, nesterov: true, weightDecay: 5e-4 },
  });
  const { parameters, state } = readParameters(model, step);
  const feeds: Record<string, Tensor> = {
    image,
    label: int64Tensor(Array.from({ length: batch }, () => random.integer(10))),
    learning_rate: scalarTensor(0.01),
    parameters: float32Tensor([step.parameterCount], parameters),
    velocity: float32Tensor([step.parameterCount], new Float32Array(step.parameterCount)),
  };
  for (const { name, shape } of step.state) feeds[`state/${name}`] = float32Tensor(shape, state[name]!);
  for (const [name, size] of [
    ['step, standard operators', 1],
    ['step, blocked layout', block],
  ] as const) {
    const lowered = writeModel(lowerTrainingStep(step.model, { block: size }));
    const training = await Session.create(lowered, { intraOpThreads: threads });
    report(name, await median(training, feeds), 3 * macs);
    await training.release();
  }
}
