import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { seededRandom } from '../base/random.ts';
import { float32Tensor, floatsOf } from '../base/tensor.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import type { Model } from '../graph/model.ts';
import { readModelFile } from '../graph/onnx/read.ts';
import { writeModelFile } from '../graph/onnx/write.ts';
import { mnistPackage } from '../port/data/mnist-package.ts';
import { TRAINING_METADATA_KEY } from '../port/train/train.ts';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-train-cli-'));
  await writeModelFile(foreign(10), join(folder, 'foreign.onnx'));
  await writeModelFile(foreign(4), join(folder, 'four.onnx'));
});
afterAll(() => rm(folder, { recursive: true }));

function train(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const common = ['train', '--data', 'mnist', '--threads', '1', '--work', 'work', ...args];
  return new Promise((resolve) => {
    execFile(process.execPath, [main, ...common], { cwd: folder }, (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, stdout, stderr });
    });
  });
}

/** A network as others export them: for one normalised image, without BatchNorm, under other names. */
function foreign(classes: number): Model {
  const random = seededRandom(1);
  const build = new GraphBuilder('torch_jit');
  const filled = (name: string, shape: number[], scale: number) => {
    const values = Float32Array.from(
      { length: shape.reduce((a, b) => a * b, 1) },
      () => scale * random.normal(),
    );
    return build.initializer(name, float32Tensor(shape, values));
  };
  build.input('input.1', 'float32', [1, 1, 28, 28]);
  const kernel = [filled('conv.weight', [8, 1, 3, 3], 0.4), filled('conv.bias', [8], 0.1)];
  const features = build.op('Relu', [
    build.op('Conv', ['input.1', ...kernel], { strides: [2, 2], kernel_shape: [3, 3] }),
  ]);
  const flat = build.op('Reshape', [build.op('GlobalAveragePool', [features]), build.ints([1, 8])]);
  const head = [filled('fc.weight', [classes, 8], 0.3), filled('fc.bias', [classes], 0)];
  build.op('Gemm', [flat, ...head], { transB: 1 }, { outputs: ['18'] });
  build.output('18', 'float32', [1, classes]);
  return modelOf(build.finish());
}

describe('training', () => {
  it('fine-tunes a network of anybody, and leaves the normalisation before it alone', async () => {
    const out = 'tuned.onnx';
    const { stderr, code } = await train(
      '--from',
      'foreign.onnx',
      '--normalize-input',
      '--epochs',
      '0.1',
      '--out',
      out,
    );
    expect(code, stderr).toBe(0);
    const [before, after] = [
      await readModelFile(join(folder, 'foreign.onnx')),
      await readModelFile(join(folder, out)),
    ];
    const values = (model: Model, name: string) => [...floatsOf(model.graph.initializers.get(name)!)];
    for (const name of ['conv.weight', 'conv.bias', 'fc.weight', 'fc.bias']) {
      expect(values(after, name)).not.toEqual(values(before, name));
      expect(values(after, name).every(Number.isFinite)).toBe(true);
    }
    const { normalization } = await mnistPackage().load({ seed: 1 });
    expect(values(after, 'normalize/mean')).toEqual([Math.fround(normalization.mean[0]!)]);
    expect(values(after, 'normalize/scale')).toEqual([Math.fround(1 / normalization.std[0]!)]);
    // Far below the rate for random weights.
    expect(JSON.parse(after.metadata.get(TRAINING_METADATA_KEY)!).recipe.learningRate).toBe(0.02);
  });

  it('learns from a teacher of anybody, and keeps with the network how', async () => {
    const small = ['--backbone', 'resnet:widths=8,blocks=1', '--epochs', '0.1@0.5,0.03'];
    const teaching = ['--teacher', 'foreign.onnx', '--teacher-normalize-input', '--distill-weight', '0.5'];
    const optimizer = ['--optimizer', 'adamw', '--beta2', '0.99', '--clip-norm', '2'];
    const { stdout, stderr, code } = await train(
      ...small,
      ...teaching,
      ...optimizer,
      '--json',
      '--out',
      'taught.onnx',
    );
    expect(code, stderr).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ file: 'taught.onnx', testAccuracy: expect.any(Number) });
    const model = await readModelFile(join(folder, 'taught.onnx'));
    expect(JSON.parse(model.metadata.get(TRAINING_METADATA_KEY)!)).toMatchObject({
      teacher: expect.stringMatching(/^[0-9a-f]{64}$/),
      recipe: {
        distillation: { temperature: 4, weight: 0.5 },
        optimizer: { name: 'adamw', weightDecay: 0.05, beta1: 0.9, beta2: 0.99, epsilon: 1e-8 },
        clipNorm: 2,
        learningRate: 1e-3,
      },
    });
  });

  it('starts the last layer anew for other classes', async () => {
    const out = 'moved.onnx';
    const { stderr, code } = await train(
      '--from',
      'four.onnx',
      '--new-head',
      '--epochs',
      '0.1',
      '--out',
      out,
    );
    expect(code, stderr).toBe(0);
    const { initializers, outputs } = (await readModelFile(join(folder, out))).graph;
    expect(initializers.get('fc.weight')!.shape).toEqual([10, 8]);
    expect(outputs[0]!.type!.shape!.at(-1)).toBe(10);
  });

  it.each([
    [['--distill-weight', '0.5'], 2, /--distill-weight does something only with --teacher FILE/],
    [['--teacher-normalize-input'], 2, /--teacher-normalize-input does something only with --teacher FILE/],
    [['--normalize-input'], 2, /--normalize-input does something only with --from FILE/],
    [['--new-head'], 2, /--new-head does something only with --from FILE/],
    [['--beta1', '0.5'], 2, /--beta1 does something only with --optimizer adamw/],
    [['--optimizer', 'adamw', '--momentum', '0.5'], 2, /--momentum does something only with --optimizer sgd/],
    [['--optimizer', 'adamw', '--epsilon', '0'], 2, /epsilon is 0, expected a number above 0/],
    [['--clip-norm', '0'], 2, /clipNorm is 0, expected a number above 0/],
    [['--teacher', 'foreign.onnx', '--distill-temperature', '0'], 2, /temperature is 0/],
    [['--from', 'foreign.onnx', '--backbone', 'resnet-20'], 2, /'--from <file>' cannot be used with/],
    [['--loss', 'hinge'], 2, /Allowed choices are cross-entropy, mse/],
    [['--teacher', 'absent.onnx'], 1, /absent\.onnx/],
    [['--teacher', 'four.onnx'], 1, /The teacher should answer with logits \[N, 10\].*\[2, 4\]/],
    [['--from', 'four.onnx'], 1, /tells 4 classes apart, the data has 10/],
  ])('refuses %j before any step, with exit code %d', async (args, expected, complaint) => {
    const { code, stderr } = await train('--out', 'x.onnx', ...args);
    expect(stderr).toMatch(complaint);
    expect(code).toBe(expected);
  });
});
