import { describe, expect, it } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { float32Tensor, floatsOf, int64Tensor, type Tensor } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { addLoss, checkDistillation, type Distillation, type Loss } from './loss.ts';

const BATCH = 5;
const CLASSES = 4;
const random = seededRandom(1);
const normals = (scale: number) =>
  Float32Array.from({ length: BATCH * CLASSES }, () => scale * random.normal());
const answers = normals(2);
const teacher = normals(3);
const target = normals(1);
const labels = [0, 3, 1, 1, 2];

interface Case {
  readonly loss: Loss;
  readonly labelSmoothing?: number;
  readonly distillation?: Distillation;
}

const CASES: readonly Case[] = [
  { loss: 'cross-entropy' },
  { loss: 'cross-entropy', labelSmoothing: 0.2 },
  { loss: 'mse' },
  { loss: 'mse', labelSmoothing: 0.2 },
  { loss: 'regression' },
  { loss: 'cross-entropy', distillation: { temperature: 4, weight: 0.9 } },
  { loss: 'cross-entropy', labelSmoothing: 0.1, distillation: { temperature: 0.5, weight: 0.3 } },
  { loss: 'cross-entropy', distillation: { temperature: 1, weight: 1 } },
  { loss: 'mse', distillation: { temperature: 8, weight: 0.5 } },
];

describe.each(CASES)('%j', (item) => {
  it('has the value of its formula and the gradient of its value', async () => {
    const { loss, gradient } = await run(item, answers, teacher);
    const z = Array.from(answers);
    expect(loss).toBeCloseTo(formula(item, z), 5);
    // Central differences of the formula in float64, one answer at a time.
    const h = 1e-5;
    for (let i = 0; i < z.length; i++) {
      const slope = (formula(item, z.with(i, z[i]! + h)) - formula(item, z.with(i, z[i]! - h))) / (2 * h);
      expect(gradient[i]).toBeCloseTo(slope, 5);
    }
  });
});

describe('distillation', () => {
  const alone = (temperature: number): Case => ({
    loss: 'cross-entropy',
    distillation: { temperature, weight: 1 },
  });

  it('is 0 and at rest where the student says what the teacher says, up to a constant for each example', async () => {
    const shifted = answers.map((value, i) => value + Math.floor(i / CLASSES));
    const { loss, gradient } = await run(alone(3), answers, shifted);
    expect(Math.abs(loss)).toBeLessThan(1e-6);
    expect(Math.max(...gradient.map(Math.abs))).toBeLessThan(1e-7);
  });

  it('matches the logits themselves at a high temperature, as Hinton et al. derive', async () => {
    // T → ∞ with logits of mean 0: the gradient of T² · KL tends to (z − v) / classes.
    const centred = (values: Float32Array) =>
      values.map((value, i) => {
        const row = values.subarray(i - (i % CLASSES), i - (i % CLASSES) + CLASSES);
        return value - row.reduce((a, b) => a + b, 0) / CLASSES;
      });
    const [z, v] = [centred(answers), centred(teacher)];
    const { gradient } = await run(alone(1000), z, v);
    gradient.forEach((g, i) => {
      expect(g).toBeCloseTo((z[i]! - v[i]!) / (CLASSES * BATCH), 2);
    });
  });

  it('stays finite for logits far apart', async () => {
    const huge = Float32Array.from(answers, (_, i) => (i % CLASSES === 0 ? 1e4 : -1e4));
    const { loss, gradient } = await run(alone(1), answers, huge);
    expect(Number.isFinite(loss)).toBe(true);
    expect(gradient.every(Number.isFinite)).toBe(true);
  });

  it.each([
    { temperature: 0, weight: 0.5 },
    { temperature: Number.POSITIVE_INFINITY, weight: 0.5 },
    { temperature: 4, weight: -0.1 },
    { temperature: 4, weight: Number.NaN },
  ])('refuses %j', (wrong) => {
    expect(() => checkDistillation(wrong)).toThrow(/^Distillation: (temperature|weight) is .+, expected/);
  });
});

async function run(
  { loss, labelSmoothing = 0, distillation }: Case,
  z: Float32Array,
  v: Float32Array,
): Promise<{ loss: number; gradient: Float32Array }> {
  const build = new GraphBuilder('loss');
  build.input('answers', 'float32', [BATCH, CLASSES]);
  const options = { loss, batch: BATCH, classes: CLASSES, labelSmoothing, distillation };
  const { gradient } = addLoss(build, 'answers', options);
  build.output(gradient, 'float32', [BATCH, CLASSES]);
  const matrix = (values: Float32Array) => float32Tensor([BATCH, CLASSES], values);
  const feeds: Record<string, Tensor> = {
    answers: matrix(z),
    ...(loss === 'regression' ? { target: matrix(target) } : { label: int64Tensor(labels) }),
    ...(distillation && { teacher_logits: matrix(v) }),
  };
  const session = await Session.create(writeModel(modelOf(build.finish())));
  const results = await session.run(feeds);
  await session.release();
  return { loss: floatsOf(results.loss!)[0]!, gradient: floatsOf(results[gradient]!) };
}

/** The loss as its docstring writes it, in float64. */
function formula({ loss, labelSmoothing = 0, distillation }: Case, z: readonly number[]): number {
  let own = 0;
  let learned = 0;
  for (let n = 0; n < BATCH; n++) {
    const row = z.slice(n * CLASSES, (n + 1) * CLASSES);
    const logs = logSoftmax(row);
    row.forEach((answer, k) => {
      const smooth = (labels[n] === k ? 1 - labelSmoothing : 0) + labelSmoothing / CLASSES;
      if (loss === 'cross-entropy') own -= (smooth * logs[k]!) / BATCH;
      else {
        const wanted = loss === 'mse' ? smooth : target[n * CLASSES + k]!;
        own += (answer - wanted) ** 2 / (BATCH * CLASSES);
      }
    });
    if (distillation === undefined) continue;
    const { temperature } = distillation;
    const soft = (values: readonly number[]) => logSoftmax(values.map((value) => value / temperature));
    const q = soft(row);
    soft([...teacher.subarray(n * CLASSES, (n + 1) * CLASSES)]).forEach((p, k) => {
      learned += (temperature ** 2 * Math.exp(p) * (p - q[k]!)) / BATCH;
    });
  }
  const weight = distillation?.weight ?? 0;
  return (1 - weight) * own + weight * learned;
}

function logSoftmax(row: readonly number[]): number[] {
  const top = Math.max(...row);
  const log = top + Math.log(row.reduce((sum, value) => sum + Math.exp(value - top), 0));
  return row.map((value) => value - log);
}
