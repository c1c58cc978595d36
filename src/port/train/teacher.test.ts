import { describe, expect, it } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { float32Tensor, floatsOf } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { checkModel } from '../../graph/check.ts';
import type { Model, Shape } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { openTeacher, TEACHER_CACHE_BYTES, toTeacher } from './teacher.ts';

const CLASSES = 3;
const data = {
  shape: [2, 4, 4],
  normalization: { mean: [0.5, 0.4], std: [0.2, 0.3] },
  classes: CLASSES,
} as const;

/** Logits are a matrix times the pixels; names as nobody here would choose. */
function linear(shape: Shape, more: { softmax?: boolean; reshape?: readonly number[] } = {}): Model {
  const random = seededRandom(1);
  const build = new GraphBuilder('linear');
  const x = build.input('serving_default', 'float32', shape);
  const flat =
    more.reshape === undefined
      ? build.op('Flatten', [x])
      : build.op('Reshape', [x, build.ints(more.reshape)]);
  const weights = Float32Array.from({ length: 32 * CLASSES }, () => random.normal());
  const logits = build.op('MatMul', [flat, build.constant(float32Tensor([32, CLASSES], weights))]);
  const answer = more.softmax ? build.op('Softmax', [logits], { axis: -1 }) : logits;
  build.output(build.op('Identity', [answer], {}, { outputs: ['answer:0'] }), 'float32');
  const model = modelOf(build.finish());
  if (!more.softmax) return model;
  // The Softmax itself is the output.
  const nodes = model.graph.nodes
    .filter((node) => node.opType !== 'Identity')
    .map((node) => (node.opType === 'Softmax' ? { ...node, outputs: ['answer:0'] } : node));
  return { ...model, graph: { ...model.graph, nodes } };
}

async function logitsOf(model: Model, images: Float32Array, shape: readonly number[]): Promise<number[]> {
  checkModel(model);
  const session = await Session.create(writeModel(model));
  const results = await session.run({ [session.inputNames[0]!]: float32Tensor(shape, images) });
  const logits = [...floatsOf(results[session.outputNames[0]!]!)];
  await session.release();
  return logits;
}

const random = seededRandom(2);
const pixels = Float32Array.from({ length: 2 * 32 }, () => random.uniform());

describe('a teacher', () => {
  it('answers in logits, whatever its names and even where its file ends in a Softmax', async () => {
    const expected = await logitsOf(linear(['N', 2, 4, 4]), pixels, [2, 2, 4, 4]);
    const teacher = toTeacher(linear(['N', 2, 4, 4], { softmax: true }), data);
    expect(await logitsOf(teacher, pixels, [2, 2, 4, 4])).toEqual(expected);
    expect(teacher.graph.nodes.some((node) => node.opType === 'Softmax')).toBe(false);
  });

  it('is given pixels as it was trained on: normalised, channels last', async () => {
    const { mean, std } = data.normalization;
    const network = linear(['N', 4, 4, 2]);
    const teacher = toTeacher(network, data, { normalize: true });
    const fed = Float32Array.from({ length: pixels.length }, (_, i) => {
      const [n, p, c] = [Math.floor(i / 32), Math.floor((i % 32) / 2), i % 2];
      return (pixels[n * 32 + c * 16 + p]! - mean[c]!) / std[c]!;
    });
    const expected = await logitsOf(network, fed, [2, 4, 4, 2]);
    (await logitsOf(teacher, pixels, [2, 2, 4, 4])).forEach((logit, i) => {
      expect(logit).toBeCloseTo(expected[i]!, 3);
    });
  });

  it('is freed of the one image that its exporter wrote it for', async () => {
    const expected = await logitsOf(linear(['N', 2, 4, 4]), pixels, [2, 2, 4, 4]);
    const teacher = toTeacher(linear([1, 2, 4, 4], { reshape: [1, 32] }), data);
    expect(await logitsOf(teacher, pixels, [2, 2, 4, 4])).toEqual(expected);
  });

  it('is refused where images, classes or a built-in batch do not fit, with both sides named', () => {
    const refusal = (code: string, message: RegExp) =>
      expect.objectContaining({ code, message: expect.stringMatching(message) }) as Error;
    expect(() => toTeacher(linear(['N', 2, 4, 4]), { ...data, shape: [2, 8, 8] })).toThrow(
      refusal(
        'shape_mismatch',
        /^The teacher does not fit the data.*2×8×8.*"serving_default" \[N, 2, 4, 4\]/,
      ),
    );
    expect(() => toTeacher(linear(['N', 2, 4, 4]), { ...data, classes: 10 })).toThrow(
      refusal('shape_mismatch', /logits \[N, 10\].*answers \[2, 3\]/),
    );
    // [2, 32] twice over: the batch of 2 is turned into channels and back, which nothing can free.
    const build = new GraphBuilder('stuck');
    build.input('x', 'float32', [2, 2, 4, 4]);
    const turned = build.op('Transpose', [build.op('Reshape', ['x', build.ints([4, 16])])], { perm: [1, 0] });
    const weights = build.constant(float32Tensor([4, CLASSES], new Float32Array(12)));
    build.output(build.op('MatMul', [turned, weights]), 'float32');
    expect(() => toTeacher(modelOf(build.finish()), data)).toThrow(
      refusal('unsupported', /exactly 2 images/),
    );
  });
});

describe('a loaded teacher', () => {
  const model = writeModel(toTeacher(linear(['N', 2, 4, 4]), data));
  const options = { count: 4, classes: CLASSES, isRepeating: true, threads: 1 };
  const images = Float32Array.from({ length: 4 * 32 }, () => random.uniform());
  /** The examples of a batch, and how often they were made. */
  const batches = () => {
    const count = { made: 0 };
    const of = (indices: readonly number[]) => () => {
      count.made++;
      return {
        images: Float32Array.from(indices.flatMap((i) => [...images.subarray(i * 32, (i + 1) * 32)])),
        labels: new Uint8Array(indices.length),
        shape: [indices.length, 2, 4, 4] as const,
      };
    };
    return { count, of };
  };

  it('is asked once about an example that repeats itself, with the same answer in any batch', async () => {
    const { count, of } = batches();
    const first = await openTeacher(model, options);
    const answers = await first.logits([2, 0], of([2, 0]));
    expect(answers).toHaveLength(2 * CLASSES);
    const again = await first.logits([0, 2, 2], of([0, 2, 2]));
    expect(count.made).toBe(1);
    expect([...again.subarray(0, CLASSES)]).toEqual([...answers.subarray(CLASSES)]);
    await first.logits([0, 3], of([0, 3]));
    expect(count.made).toBe(2);
    await first.release();
    // As after a resumption: asked for the first time in another batch.
    const second = await openTeacher(model, options);
    const other = await second.logits([1, 3, 2], of([1, 3, 2]));
    expect([...other.subarray(2 * CLASSES)]).toEqual([...answers.subarray(0, CLASSES)]);
    await second.release();
  });

  it.each([
    ['varies', { ...options, isRepeating: false }],
    ['would take too much memory', { ...options, count: TEACHER_CACHE_BYTES }],
  ])('is asked each time about an example that %s', async (_, given) => {
    const { count, of } = batches();
    const teacher = await openTeacher(model, given);
    await teacher.logits([2, 0], of([2, 0]));
    await teacher.logits([2, 0], of([2, 0]));
    expect(count.made).toBe(2);
    await teacher.release();
  });

  it('is not believed where it answers with no numbers', async () => {
    const teacher = await openTeacher(model, options);
    const broken = () => ({
      images: new Float32Array(32).fill(Number.NaN),
      labels: new Uint8Array(1),
      shape: [1, 2, 4, 4] as const,
    });
    await expect(teacher.logits([0], broken)).rejects.toThrow(/not finite/);
    await teacher.release();
  });
});
