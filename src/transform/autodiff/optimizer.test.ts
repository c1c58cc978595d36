import { describe, expect, it } from 'vitest';
import { type Random, seededRandom } from '../../base/random.ts';
import { float32Tensor, floatsOf, int64Tensor, scalarTensor, type Tensor } from '../../base/tensor.ts';
import { probeBlockSize } from '../../engine/probe-block.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Model } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { lowerTrainingStep } from '../lower/lower.ts';
import { checkOptimizer, type Optimizer, PLAIN_SGD, STEP_NUMBER } from './optimizer.ts';
import {
  buildTrainingStep,
  readParameters,
  type TrainingStep,
  type TrainingStepOptions,
} from './training-step.ts';

const BATCH = 16;
const CLASSES = 3;
const STEPS = 6;
const RATE = 0.05;
/** Shorter than every gradient here. */
const LIMIT = 0.05;

type Choice = Pick<TrainingStepOptions, 'optimizer' | 'clipNorm'>;

const SGD = { name: 'sgd', momentum: 0.9, nesterov: true, weightDecay: 0.1 } as const;
const ADAMW = { name: 'adamw', weightDecay: 0.2 } as const;

describe('an optimiser', () => {
  it.each<Choice>([
    { optimizer: SGD },
    { optimizer: { ...SGD, nesterov: false, weightDecay: 0 } },
    { optimizer: ADAMW },
    { optimizer: { ...ADAMW, weightDecay: 0, beta1: 0.5, beta2: 0.9, epsilon: 0.01 } },
    { optimizer: SGD, clipNorm: LIMIT },
    { optimizer: ADAMW, clipNorm: LIMIT },
    // Longer than any gradient here.
    { optimizer: ADAMW, clipNorm: 1000 },
  ])('moves the parameters step by step as its formulas say: %j', async (choice) => {
    const model = network();
    const plain = buildTrainingStep(model, { batch: BATCH, optimizer: PLAIN_SGD });
    const step = buildTrainingStep(model, { batch: BATCH, ...choice });
    const random = seededRandom(2);
    const [gradientOf, move] = [await runnerOf(plain), await runnerOf(step)];
    let { parameters } = readParameters(model, step);
    let moments = step.moments.map(() => new Float32Array(step.parameterCount));
    const reference = referenceOf(choice, step, parameters);
    for (let t = 1; t <= STEPS; t++) {
      const feeds = examples(random);
      const before = reference.parameters();
      const given = { ...feeds, parameters: vector(parameters) };
      const plainResults = await gradientOf({
        ...given,
        learning_rate: scalarTensor(0),
        velocity: vector(new Float32Array(plain.parameterCount)),
      });
      const gradient = floatsOf(plainResults.velocity_next!);
      const results = await move({
        ...given,
        learning_rate: scalarTensor(RATE / t),
        ...Object.fromEntries(step.moments.map((name, i) => [name, vector(moments[i]!)])),
        ...(step.countsSteps && { [STEP_NUMBER]: scalarTensor(t) }),
      });
      const norm = reference.step(gradient, t, RATE / t);
      expect(floatsOf(results.gradient_norm!)[0]).toBeCloseTo(norm, 5);
      if (choice.clipNorm === LIMIT) expect(norm).toBeGreaterThan(LIMIT);
      parameters = floatsOf(results.parameters_next!);
      moments = step.moments.map((name) => new Float32Array(floatsOf(results[`${name}_next`]!)));
      const wanted = reference.parameters();
      for (const [i, parameter] of parameters.entries()) {
        expect(Math.abs(parameter - wanted[i]!)).toBeLessThan(2e-5 * (1 + Math.abs(wanted[i]!)));
      }
      expect(wanted).not.toEqual(before);
    }
    await gradientOf.release();
    await move.release();
  });

  it.each<Choice & Pick<TrainingStepOptions, 'loss' | 'distillation'>>([
    { optimizer: ADAMW, clipNorm: LIMIT, distillation: { temperature: 4, weight: 0.9 } },
    { optimizer: SGD, clipNorm: LIMIT, loss: 'mse' },
    { optimizer: ADAMW, loss: 'regression' },
  ])('passes through the blocked lowering: %j', async (choice) => {
    const model = network();
    const step = buildTrainingStep(model, { batch: BATCH, ...choice });
    const random = seededRandom(3);
    const { label, image } = examples(random);
    const { parameters } = readParameters(model, step);
    const answers = () => float32Tensor([BATCH, CLASSES], normals(BATCH * CLASSES, 1, random));
    const feeds: Record<string, Tensor> = {
      image: image!,
      learning_rate: scalarTensor(RATE),
      parameters: vector(parameters),
      ...(choice.loss === 'regression' ? { target: answers() } : { label: label! }),
      ...(choice.distillation && { teacher_logits: answers() }),
      ...(step.countsSteps && { [STEP_NUMBER]: scalarTensor(3) }),
    };
    // Squares, as a second moment is.
    for (const name of step.moments) {
      feeds[name] = vector(normals(step.parameterCount, 0.1, random).map((value) => value * value));
    }
    const [standard, blocked] = [await runnerOf(step), await runnerOf(step, await probeBlockSize())];
    const [expected, actual] = [await standard(feeds), await blocked(feeds)];
    for (const [name, tensor] of Object.entries(expected)) {
      const values = floatsOf(actual[name]!);
      floatsOf(tensor).forEach((value, i) => {
        expect(Math.abs(values[i]! - value), name).toBeLessThan(1e-4 * (1 + Math.abs(value)));
      });
    }
    await standard.release();
    await blocked.release();
  });

  it.each<[Partial<Record<string, unknown>>, RegExp]>([
    [
      { name: 'sgd', momentum: 1, nesterov: true, weightDecay: 0 },
      /momentum is 1, expected a number in \[0, 1\)/,
    ],
    [{ name: 'sgd', momentum: 0, weightDecay: 0 }, /nesterov is undefined, expected true or false/],
    [{ ...ADAMW, beta1: -0.1 }, /beta1 is -0\.1/],
    [{ ...ADAMW, beta2: Number.NaN }, /beta2 is NaN/],
    [{ ...ADAMW, epsilon: 0 }, /epsilon is 0, expected a number above 0/],
    [{ ...ADAMW, weightDecay: Number.POSITIVE_INFINITY }, /weightDecay is Infinity/],
    [{ name: 'adam' }, /The optimizer is \{"name":"adam"\}, expected \{ name: 'sgd'/],
  ])('is refused where a field is wrong: %j', (optimizer, message) => {
    expect(() => checkOptimizer(optimizer as unknown as Optimizer)).toThrow(message);
  });
});

/** The optimiser in float64, written down once more: no graph, one parameter after the other. */
function referenceOf(choice: Choice, step: TrainingStep, start: Float32Array) {
  const { optimizer, clipNorm } = choice;
  const count = start.length;
  const w = Float64Array.from(start);
  const [first, second] = [new Float64Array(count), new Float64Array(count)];
  const decays = new Array<boolean>(count).fill(false);
  for (const { shape, offset, size } of step.parameters) decays.fill(shape.length > 1, offset, offset + size);
  return {
    parameters: () => Array.from(w),
    step(raw: Float32Array, t: number, rate: number): number {
      const norm = Math.hypot(...raw);
      const scale = clipNorm !== undefined && norm > clipNorm ? clipNorm / norm : 1;
      for (let i = 0; i < count; i++) {
        const decay = decays[i] ? optimizer.weightDecay * w[i]! : 0;
        if (optimizer.name === 'sgd') {
          const g = raw[i]! * scale + decay;
          first[i] = optimizer.momentum * first[i]! + g;
          w[i]! -= rate * (optimizer.nesterov ? g + optimizer.momentum * first[i]! : first[i]!);
        } else {
          const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8 } = optimizer;
          const g = raw[i]! * scale;
          first[i] = beta1 * first[i]! + (1 - beta1) * g;
          second[i] = beta2 * second[i]! + (1 - beta2) * g * g;
          const m = first[i]! / (1 - beta1 ** t);
          const v = second[i]! / (1 - beta2 ** t);
          w[i]! -= rate * (m / (Math.sqrt(v) + epsilon) + decay);
        }
      }
      return norm;
    },
  };
}

interface Runner {
  (feeds: Record<string, Tensor>): Promise<Record<string, Tensor>>;
  release(): Promise<void>;
}

async function runnerOf(step: TrainingStep, block = 1): Promise<Runner> {
  const session = await Session.create(writeModel(lowerTrainingStep(step.model, { block })));
  return Object.assign((feeds: Record<string, Tensor>) => session.run(feeds), {
    release: () => session.release(),
  });
}

function vector(values: Float32Array): Tensor {
  return float32Tensor([values.length], values);
}

function normals(count: number, scale: number, random: Random): Float32Array {
  return Float32Array.from({ length: count }, () => scale * random.normal());
}

function examples(random: Random): Record<string, Tensor> {
  return {
    image: float32Tensor([BATCH, 3, 8, 8], normals(BATCH * 3 * 64, 1, random)),
    label: int64Tensor(Array.from({ length: BATCH }, () => random.integer(CLASSES))),
  };
}

/** Two convolutions (whose weights decay) with biases (which do not), without kinks or running averages. */
function network(): Model {
  const random = seededRandom(1);
  const build = new GraphBuilder('net');
  build.input('image', 'float32', ['N', 3, 8, 8]);
  const filled = (name: string, shape: number[]) => {
    const size = shape.reduce((a, b) => a * b, 1);
    const scale = shape.length > 1 ? Math.sqrt(shape[0]! / size) : 0.1;
    return build.initializer(name, float32Tensor(shape, normals(size, scale, random)));
  };
  const conv = (name: string, x: string, from: number, to: number) =>
    build.op('Tanh', [
      build.op('Conv', [x, filled(`${name}/w`, [to, from, 3, 3]), filled(`${name}/b`, [to])], {
        pads: [1, 1, 1, 1],
        kernel_shape: [3, 3],
      }),
    ]);
  const features = conv('b', conv('a', 'image', 3, 16), 16, 16);
  const pooled = build.op('Flatten', [build.op('GlobalAveragePool', [features])]);
  const weights = [filled('fc/w', [CLASSES, 16]), filled('fc/b', [CLASSES])];
  build.op('Gemm', [pooled, ...weights], { transB: 1 }, { outputs: ['logits'] });
  build.output('logits', 'float32', ['N', CLASSES]);
  return modelOf(build.finish());
}
