import { describe, expect, it } from 'vitest';
import { halfTensor } from '../../base/half.ts';
import { type Random, seededRandom } from '../../base/random.ts';
import {
  elementCount,
  float32Tensor,
  floatsOf,
  int64Tensor,
  scalarTensor,
  type Tensor,
} from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { type Model, withMetadata } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { lowerTrainingStep } from '../lower/lower.ts';
import { PLAIN_SGD } from './optimizer.ts';
import {
  buildTrainingStep,
  readParameters,
  type TrainingStep,
  trainableParameters,
  writeParameters,
} from './training-step.ts';

const PLAIN = { optimizer: PLAIN_SGD };
const CLASSES = 3;

describe('the gradient of a whole step', () => {
  it('agrees with finite differences on a residual network without kinks', async () => {
    const model = residualNetwork('Tanh');
    const step = buildTrainingStep(model, { batch: 4, labelSmoothing: 0.1, ...PLAIN });
    await usingStep(model, step, async (run, start) => {
      const feeds = examples(4, [2, 8, 8], seededRandom(3));
      const gradient = floatsOf((await run(feeds, start.parameters)).velocity_next!);
      const random = seededRandom(4);
      const norm = Math.sqrt(gradient.reduce((sum, g) => sum + g * g, 0));
      for (let trial = 0; trial < 8; trial++) {
        // Half random, half along the gradient, so that the slope is well above the rounding of the loss.
        const direction = gradient.map((g) => g / norm + random.normal() / Math.sqrt(gradient.length));
        const lossAt = async (t: number) =>
          scalar(
            (
              await run(
                feeds,
                start.parameters.map((p, i) => p + t * direction[i]!),
              )
            ).loss,
          );
        const estimate = ((await lossAt(STEP)) - (await lossAt(-STEP))) / (2 * STEP);
        const expected = gradient.reduce((sum, g, i) => sum + g * direction[i]!, 0);
        expect(Math.abs(estimate - expected)).toBeLessThan(0.01 * norm);
      }
    });
  });

  it('is right for every parameter tensor by itself', async () => {
    const model = residualNetwork('Tanh');
    const step = buildTrainingStep(model, { batch: 4, ...PLAIN });
    await usingStep(model, step, async (run, start) => {
      const feeds = examples(4, [2, 8, 8], seededRandom(3));
      const gradient = floatsOf((await run(feeds, start.parameters)).velocity_next!);
      for (const { offset, size } of step.parameters) {
        const part = gradient.subarray(offset, offset + size);
        const norm = Math.sqrt(part.reduce((sum, g) => sum + g * g, 0));
        const lossAt = async (t: number) => {
          const moved = start.parameters.slice();
          for (let i = 0; i < size; i++) moved[offset + i]! += (t * part[i]!) / (norm + 1e-6);
          return scalar((await run(feeds, moved)).loss);
        };
        const estimate = ((await lossAt(STEP)) - (await lossAt(-STEP))) / (2 * STEP);
        expect(Math.abs(estimate - norm)).toBeLessThan(0.02 * norm + 1e-3);
      }
    });
  });

  it('runs through several layers of one kind, whatever the network calls its nodes', async () => {
    const build = new GraphBuilder('net');
    build.input('image', 'float32', ['N', 2, 8, 8]);
    build.initializer('scale', float32Tensor([2, 1, 1], [1, 2]));
    build.initializer('fc', float32Tensor([2, CLASSES], [1, 2, 3, 4, 5, 6]));
    // What the gradient of MaxPool calls the nodes that it writes, and a name that comes of making it unique.
    const pool = (x: string, name: string) => build.op('MaxPool', [x], POOL_BY_TWO, { name });
    const scaled = build.op('Mul', ['image', 'scale']);
    const pooled = pool(pool(pool(scaled, 'maxpool_positions'), 'maxpool_positions_1'), 'last');
    build.op('MatMul', [build.op('Flatten', [pooled]), 'fc'], {}, { outputs: ['logits'] });
    build.output('logits', 'float32', ['N', CLASSES]);
    const model = modelOf(build.finish());
    const step = buildTrainingStep(model, { batch: 2, ...PLAIN });
    const names = lowerTrainingStep(step.model, { block: 1 }).graph.nodes.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    await usingStep(model, step, async (run, start) => {
      const { gradient_norm } = await run(examples(2, [2, 8, 8], seededRandom(5)), start.parameters);
      expect(scalar(gradient_norm)).toBeGreaterThan(0);
    });
  });

  it('computes nothing towards the image', () => {
    const step = buildTrainingStep(residualNetwork('Relu'), { batch: 2, ...PLAIN });
    // Of the four convolutions the stem alone has no gradient towards its input.
    const count = (opType: string) => step.model.graph.nodes.filter((node) => node.opType === opType).length;
    expect(count('ConvWeightGradient')).toBe(4);
    expect(count('ConvInputGradient')).toBe(3);
  });
});

const POOL_BY_TWO = { kernel_shape: [2, 2], strides: [2, 2] };

/** Distance for central differences: large against the rounding of the loss, small against its curvature. */
const STEP = 5e-3;

describe('batch statistics', () => {
  it('move the running averages by 1 − momentum, with the biased variance', async () => {
    const build = new GraphBuilder('net');
    build.input('image', 'float32', ['N', 2, 2, 2]);
    for (const [name, value] of [
      ['scale', 1],
      ['shift', 0],
      ['mean', 5],
      ['var', 3],
    ] as const) {
      build.initializer(`bn/${name}`, float32Tensor([2], [value, value]));
    }
    build.initializer('fc', float32Tensor([2, CLASSES], [1, 2, 3, 4, 5, 6]));
    const normal = build.op('BatchNormalization', ['image', 'bn/scale', 'bn/shift', 'bn/mean', 'bn/var'], {
      momentum: 0.8,
    });
    const pooled = build.op('Flatten', [build.op('GlobalAveragePool', [normal])]);
    build.op('MatMul', [pooled, 'fc'], {}, { outputs: ['logits'] });
    build.output('logits', 'float32', ['N', CLASSES]);
    const model = modelOf(build.finish());
    const step = buildTrainingStep(model, { batch: 2, ...PLAIN });
    expect(step.state.map((slot) => slot.name)).toEqual(['bn/mean', 'bn/var']);
    await usingStep(model, step, async (run, start) => {
      // Channel 0 holds 1…4 in both images: mean 2.5, variance 1.25. Channel 1 is constant.
      const image = float32Tensor([2, 2, 2, 2], [1, 2, 3, 4, 7, 7, 7, 7, 1, 2, 3, 4, 7, 7, 7, 7]);
      const result = await run({ image, label: int64Tensor([0, 1]) }, start.parameters);
      const [mean, variance] = ['mean', 'var'].map((name) => [...floatsOf(result[`state_next/bn/${name}`]!)]);
      expect(mean![0]).toBeCloseTo(5 * 0.8 + 2.5 * 0.2, 5);
      expect(mean![1]).toBeCloseTo(5 * 0.8 + 7 * 0.2, 5);
      expect(variance![0]).toBeCloseTo(3 * 0.8 + 1.25 * 0.2, 5);
      expect(variance![1]).toBeCloseTo(3 * 0.8, 4);
    });
  });

  it('give the loss that inference gives with the statistics of the batch', async () => {
    // Momentum 0 makes the running averages those of the batch: the written-back network then agrees with the step.
    const model = residualNetwork('Relu', 0);
    const step = buildTrainingStep(model, { batch: 4, ...PLAIN });
    await usingStep(model, step, async (run, start) => {
      const feeds = examples(4, [2, 8, 8], seededRandom(5));
      const result = await run(feeds, start.parameters);
      const state = Object.fromEntries(
        step.state.map(({ name }) => [name, floatsOf(result[`state_next/${name}`]!)]),
      );
      const session = await Session.create(writeModel(writeParameters(model, step, start.parameters, state)));
      const logits = floatsOf((await session.run({ image: feeds.image })).logits!);
      await session.release();
      let loss = 0;
      for (let n = 0; n < 4; n++) {
        const row = [...logits.subarray(n * CLASSES, (n + 1) * CLASSES)];
        loss += (Math.log(row.reduce((sum, v) => sum + Math.exp(v), 0)) - row[labelOf(feeds.label, n)]!) / 4;
      }
      expect(scalar(result.loss)).toBeCloseTo(loss, 4);
    });
  });
});

describe('training', () => {
  it('learns a separable task', async () => {
    const model = residualNetwork('Relu');
    const batch = 12;
    const step = buildTrainingStep(model, {
      batch,
      optimizer: { name: 'sgd', momentum: 0.9, nesterov: true, weightDecay: 1e-4 },
    });
    await usingStep(model, step, async (run, start) => {
      const random = seededRandom(6);
      const labels = Array.from({ length: batch }, (_, n) => n % CLASSES);
      let { parameters, state } = start;
      let velocity: Float32Array = new Float32Array(step.parameterCount);
      const losses: number[] = [];
      let correct = 0;
      for (let i = 0; i < 30; i++) {
        // The label shifts the whole image and its slope.
        const image = float32Tensor(
          [batch, 2, 8, 8],
          Float32Array.from({ length: batch * 128 }, (_, j) => {
            const label = labels[Math.floor(j / 128)]!;
            return (
              0.3 * random.normal() +
              (label === 0 ? 0 : label === 1 ? (j % 8) / 4 : (Math.floor(j / 8) % 8) / 4)
            );
          }),
        );
        const result = await run({ image, label: int64Tensor(labels) }, parameters, {
          velocity,
          state,
          rate: 0.05,
        });
        losses.push(scalar(result.loss));
        correct = scalar(result.correct);
        parameters = floatsOf(result.parameters_next!);
        velocity = floatsOf(result.velocity_next!);
        state = Object.fromEntries(
          step.state.map(({ name }) => [name, floatsOf(result[`state_next/${name}`]!)]),
        );
      }
      expect(losses.at(-1)!).toBeLessThan(0.3 * losses[0]!);
      expect(correct).toBe(batch);
    });
  });

  it('applies momentum, Nesterov and weight decay as their formulas say', async () => {
    const model = linearNetwork();
    const plain = buildTrainingStep(model, { batch: 4, ...PLAIN });
    const full = buildTrainingStep(model, {
      batch: 4,
      optimizer: { name: 'sgd', momentum: 0.9, nesterov: true, weightDecay: 0.1 },
    });
    const feeds = examples(4, [2, 8, 8], seededRandom(8));
    let gradient: Float32Array = new Float32Array();
    await usingStep(model, plain, async (run, start) => {
      gradient = Float32Array.from(floatsOf((await run(feeds, start.parameters)).velocity_next!));
    });
    await usingStep(model, full, async (run, start) => {
      const velocity = new Float32Array(full.parameterCount).fill(0.5);
      const result = await run(feeds, start.parameters, { velocity, rate: 0.2 });
      for (const { shape, offset, size } of full.parameters) {
        for (let i = offset; i < offset + size; i++) {
          const whole = gradient[i]! + (shape.length > 1 ? 0.1 * start.parameters[i]! : 0);
          const next = 0.9 * 0.5 + whole;
          expect(floatsOf(result.velocity_next!)[i]).toBeCloseTo(next, 5);
          expect(floatsOf(result.parameters_next!)[i]).toBeCloseTo(
            start.parameters[i]! - 0.2 * (whole + 0.9 * next),
            5,
          );
        }
      }
    });
  });

  it('takes another resolution where the network pools globally', () => {
    const step = buildTrainingStep(residualNetwork('Relu'), { batch: 2, inputShape: [2, 12, 10], ...PLAIN });
    expect(step.model.graph.inputs[0]?.type?.shape).toEqual([2, 2, 12, 10]);
  });

  it('is refused for sizes that do not go together and options out of range', () => {
    const linear = linearNetwork();
    expect(() => buildTrainingStep(linear, { batch: 2, inputShape: [2, 12, 10], ...PLAIN })).toThrow(/Gemm/);
    expect(() => buildTrainingStep(linear, { batch: 0, ...PLAIN })).toThrow(/batch/);
    expect(() => buildTrainingStep(linear, { batch: 1, optimizer: { ...PLAIN_SGD, momentum: 1 } })).toThrow(
      /momentum/,
    );
  });
});

describe('a network that cannot be trained', () => {
  const through = (opType: string, stored: 'float32' | 'float16' = 'float32') => {
    const b = new GraphBuilder('net');
    const kernel = float32Tensor([3, 2, 4, 4], seeded(96));
    const x = b.op('Conv', [
      b.input('image', stored, ['N', 2, 4, 4]),
      b.initializer('w', stored === 'float16' ? halfTensor(stored, kernel.shape, floatsOf(kernel)) : kernel),
    ]);
    b.output(b.op('Flatten', [b.op(opType, [x], {}, { name: 'middle' })]), stored);
    return modelOf(b.finish());
  };
  const seeded = (count: number) => {
    const random = seededRandom(5);
    return Float32Array.from({ length: count }, () => random.normal());
  };

  it('is told with the operator, its node and what else can be done', () => {
    const build = () => buildTrainingStep(through('Round'), { batch: 2, ...PLAIN });
    expect(build).toThrow(expect.objectContaining({ code: 'missing_rule' }) as Error);
    expect(build).toThrow(
      /Round \(node "middle"\) has no gradient.*\(l2, fpgm, slim, apoz, mean-activation\)/,
    );
    expect(build).not.toThrow(/src\/ops/);
  });

  it('because it is in 16-bit floats is told so', () => {
    const build = () => buildTrainingStep(through('Relu', 'float16'), { batch: 2, ...PLAIN });
    expect(build).toThrow(expect.objectContaining({ code: 'unsupported' }) as Error);
    expect(build).toThrow(/weights are float16 \("w"\).*singlePrecision/);
  });
});

describe('parameters', () => {
  it('are trained unless they normalise the input or the metadata freezes them', () => {
    const model = residualNetwork('Relu');
    const names = trainableParameters(model);
    expect(names).toContain('stem/w');
    expect(names).toContain('stem/bn/scale');
    expect(names).not.toContain('stem/bn/mean');
    expect(names).not.toContain('normalize/mean');
    const frozen = withMetadata(model, { 'bonsai.frozen': '["stem/w"]' });
    expect(trainableParameters(frozen)).not.toContain('stem/w');
    const step = buildTrainingStep(model, { batch: 2, ...PLAIN, frozen: (name) => name !== 'fc/w' });
    expect(step.parameters.map((slot) => slot.name)).toEqual(['fc/w']);
    // Everything before the last layer has no gradient then.
    expect(step.model.graph.nodes.some((node) => node.opType === 'ConvTranspose')).toBe(false);
  });

  it('survive reading and writing, and leave the model they came from alone', () => {
    const model = residualNetwork('Relu');
    const step = buildTrainingStep(model, { batch: 2, ...PLAIN });
    const { parameters, state } = readParameters(model, step);
    const moved = writeParameters(
      model,
      step,
      parameters.map((p) => p + 1),
      state,
    );
    expect(readParameters(moved, step).parameters).toEqual(parameters.map((p) => p + 1));
    expect(readParameters(model, step).parameters).toEqual(parameters);
  });
});

describe('sparse scales', () => {
  it('add λ · sign(γ) to the gradient of every BatchNormalization scale, and to nothing else', async () => {
    const model = residualNetwork('Relu');
    const scaleL1 = 0.25;
    const gradientWith = async (more: { scaleL1?: number }) => {
      const step = buildTrainingStep(model, { batch: 4, ...PLAIN, ...more });
      let gradient: Float32Array = new Float32Array();
      await usingStep(model, step, async (run, start) => {
        gradient = floatsOf(
          (await run(examples(4, [2, 8, 8], seededRandom(3)), start.parameters)).velocity_next!,
        );
      });
      return { step, gradient };
    };
    const [{ step, gradient: plain }, { gradient: sparse }] = [
      await gradientWith({}),
      await gradientWith({ scaleL1 }),
    ];
    const { parameters } = readParameters(model, step);
    let scales = 0;
    for (const { name, offset, size } of step.parameters) {
      const isScale = name.endsWith('bn/scale');
      if (isScale) scales++;
      for (let i = offset; i < offset + size; i++) {
        expect(sparse[i]! - plain[i]!).toBeCloseTo(isScale ? scaleL1 * Math.sign(parameters[i]!) : 0, 6);
      }
    }
    expect(scales).toBe(4);
    expect(() => buildTrainingStep(model, { batch: 4, ...PLAIN, scaleL1: -1 })).toThrow(/scaleL1/);
  });
});

type Run = (
  feeds: { image: Tensor; label: Tensor },
  parameters: Float32Array,
  more?: { velocity?: Float32Array; state?: Record<string, Float32Array>; rate?: number },
) => Promise<Record<string, Tensor>>;

async function usingStep(
  model: Model,
  step: TrainingStep,
  use: (run: Run, start: ReturnType<typeof readParameters>) => Promise<void>,
): Promise<void> {
  const session = await Session.create(writeModel(lowerTrainingStep(step.model, { block: 1 })));
  const start = readParameters(model, step);
  const flat = (values: Float32Array) => float32Tensor([step.parameterCount], values);
  try {
    await use(
      (feeds, parameters, { velocity, state = start.state, rate = 0 } = {}) =>
        session.run({
          ...feeds,
          learning_rate: scalarTensor(rate),
          parameters: flat(parameters),
          velocity: flat(velocity ?? new Float32Array(step.parameterCount)),
          ...Object.fromEntries(
            step.state.map(({ name, shape }) => [`state/${name}`, float32Tensor(shape, state[name]!)]),
          ),
        }),
      start,
    );
  } finally {
    await session.release();
  }
}

/** Normalisation, stem, a residual block with stride 2 and a 1×1 shortcut, an identity block's half, pooling, Gemm. */
function residualNetwork(activation: string, momentum = 0.9): Model {
  const random = seededRandom(1);
  const build = new GraphBuilder('net');
  build.input('image', 'float32', ['N', 2, 8, 8]);
  build.initializer('normalize/mean', float32Tensor([1, 2, 1, 1], [0.1, -0.1]));
  build.initializer('normalize/scale', float32Tensor([1, 2, 1, 1], [1.5, 0.8]));
  const filled = (name: string, shape: number[], scale: number, centre = 0) =>
    build.initializer(
      name,
      float32Tensor(
        shape,
        Float32Array.from({ length: elementCount(shape) }, () => centre + scale * random.normal()),
      ),
    );
  const layer = (name: string, x: string, from: number, to: number, kernel: number, stride: number) => {
    const w = filled(`${name}/w`, [to, from, kernel, kernel], Math.sqrt(2 / (from * kernel * kernel)));
    const p = kernel >> 1;
    const y = build.op('Conv', [x, w], {
      pads: [p, p, p, p],
      strides: [stride, stride],
      kernel_shape: [kernel, kernel],
    });
    const parameters = [
      filled(`${name}/bn/scale`, [to], 0.1, 1),
      filled(`${name}/bn/shift`, [to], 0.1),
      filled(`${name}/bn/mean`, [to], 0),
      filled(`${name}/bn/var`, [to], 0, 1),
    ];
    return build.op('BatchNormalization', [y, ...parameters], {
      momentum: { kind: 'float', value: momentum },
    });
  };
  const normal = build.op('Mul', [build.op('Sub', ['image', 'normalize/mean']), 'normalize/scale']);
  const x = build.op(activation, [layer('stem', normal, 2, 6, 3, 1)]);
  const y = build.op(activation, [layer('a', x, 6, 8, 3, 2)]);
  const sum = build.op('Add', [layer('b', y, 8, 8, 3, 1), layer('shortcut', x, 6, 8, 1, 2)]);
  const features = build.op('Flatten', [build.op('GlobalAveragePool', [build.op(activation, [sum])])]);
  build.op(
    'Gemm',
    [features, filled('fc/w', [CLASSES, 8], 0.5), filled('fc/b', [CLASSES], 0)],
    { transB: 1 },
    { outputs: ['logits'] },
  );
  build.output('logits', 'float32', ['N', CLASSES]);
  return modelOf(build.finish());
}

function linearNetwork(): Model {
  const random = seededRandom(1);
  const build = new GraphBuilder('linear');
  build.input('image', 'float32', ['N', 2, 8, 8]);
  build.initializer(
    'fc/w',
    float32Tensor(
      [CLASSES, 128],
      Float32Array.from({ length: CLASSES * 128 }, () => 0.1 * random.normal()),
    ),
  );
  build.initializer('fc/b', float32Tensor([CLASSES], [0.1, 0.2, 0.3]));
  build.op('Gemm', [build.op('Flatten', ['image']), 'fc/w', 'fc/b'], { transB: 1 }, { outputs: ['logits'] });
  build.output('logits', 'float32', ['N', CLASSES]);
  return modelOf(build.finish());
}

function examples(batch: number, shape: readonly number[], random: Random): { image: Tensor; label: Tensor } {
  const count = batch * elementCount(shape);
  return {
    image: float32Tensor(
      [batch, ...shape],
      Float32Array.from({ length: count }, () => random.normal()),
    ),
    label: int64Tensor(Array.from({ length: batch }, () => random.integer(CLASSES))),
  };
}

function labelOf(labels: Tensor, index: number): number {
  return Number(new BigInt64Array(labels.bytes.buffer, labels.bytes.byteOffset)[index]);
}

function scalar(tensor: Tensor | undefined): number {
  return floatsOf(tensor!)[0]!;
}
