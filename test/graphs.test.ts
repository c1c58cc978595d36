import { describe, expect, test } from 'vitest';
import { Session } from '../src/engine/session.ts';
import type { Model } from '../src/graph/model.ts';
import { writeModel } from '../src/graph/onnx/write.ts';
import { maskEquivalence } from '../src/port/verify/mask-equivalence.ts';
import { foldConstants } from '../src/transform/passes/fold-constants.ts';
import { fillWeights, inputsFor, sharedModel } from '../src/transform/prune/networks.fixture.ts';
import { prune } from '../src/transform/prune/prune.ts';

/**
 * Other people's networks, whole: each is halved, runs, and computes what the masked network computes. The largest
 * (vgg11, densenet121 and vit_b_16 at 224×224) take minutes and are left to bench/verify.ts.
 */
const FILES = [
  'graphs/cifar_densenet121.bn.onnx.gz',
  'graphs/cifar_resnet56.bn.onnx.gz',
  'graphs/efficientnet_b0.bn.onnx.gz',
  'graphs/googlenet.bn.onnx.gz',
  'graphs/mobilenet_v2.bn.onnx.gz',
  'graphs/resnet18.onnx.gz',
  'graphs/shufflenet_v2_x1_0.bn.onnx.gz',
  'graphs/squeezenet1_1.onnx.gz',
  'models/light-densenet121.onnx',
  'models/light-shufflenet.onnx',
  'models/mnist-8-cntk.onnx',
  'models/mobilenetv3-ppocr-cls.onnx',
  'models/resnet20-cifar10-torch2.onnx',
  'models/resnet32-cifar100-torch2.onnx',
  'models/resnet56-cifar10-torch2.onnx',
  'models/squeezenet-cifar10-tf2onnx.onnx',
  'models/ultraface-rfb-320.onnx',
  'models/unet-small.onnx',
  'models/vit-pgd-2-3-16-cifar10.onnx',
];

/** Sizes that the files leave open. */
const SHAPES: Readonly<Record<string, readonly number[]>> = {
  'models/mobilenetv3-ppocr-cls.onnx': [1, 3, 48, 192],
};

const TOLERANCE = 1e-4;

describe.each(FILES)('%s', (path) => {
  const raw = sharedModel(path);
  const isThere = raw !== undefined;
  let loaded: Model | undefined;
  const load = () => {
    loaded ??= fillWeights(foldConstants(raw!), 1); // Tests that call it are skipped where it is absent.
    return loaded;
  };
  const shapes = (name: string) => (SHAPES[path] ? { [name]: SHAPES[path] } : undefined);

  test.skipIf(!isThere)('is halved, in whole blocks or not, and runs', async () => {
    const model = load();
    for (const align of [1, 16]) {
      const { model: pruned, parameters } = prune(model, { ratio: 0.5, align });
      // A network of 8 and 16 channels has no whole block of 16 to lose.
      if (align === 1) expect(parameters.after).toBeLessThan(parameters.before);
      else expect(parameters.after).toBeLessThanOrEqual(parameters.before);
      const fixed = SHAPES[path];
      const session = await Session.create(writeModel(pruned));
      const inputs = inputsFor(pruned, 1, fixed);
      const outputs = await session.run(inputs);
      await session.release();
      expect(Object.keys(outputs)).toEqual(pruned.graph.outputs.map(({ name }) => name));
    }
  });

  test.skipIf(!isThere)('computes without channels what it computes where nothing reads them', async () => {
    const model = load();
    const input = model.graph.inputs[0]!.name;
    const options = { seed: 1, groups: 3, inputs: 1, shapes: shapes(input) };
    expect((await maskEquivalence(model, options)).maxRelativeError).toBeLessThan(TOLERANCE);
  });
});
