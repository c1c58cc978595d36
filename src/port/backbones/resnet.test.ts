import { describe, expect, it } from 'vitest';
import { elementCount, float32Tensor } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { backbone } from './registry.ts';
import { resNet } from './resnet.ts';

const target = {
  inputShape: [1, 28, 28],
  classes: 10,
  normalization: { mean: [0.13], std: [0.31] },
  seed: 1,
} as const;

describe('a ResNet', () => {
  it.each([
    ['resnet-8', [1, 28, 28], 10],
    ['resnet:widths=8-12,blocks=1-2,stride=2', [3, 33, 21], 7],
    ['resnet-20', [3, 8, 8], 100],
  ] as const)(
    '%s takes images of %j and scores %i classes, for any batch',
    async (spec, inputShape, classes) => {
      const ones = Array.from({ length: inputShape[0] }, () => 1);
      const model = backbone(spec).build({
        inputShape,
        classes,
        normalization: { mean: ones, std: ones },
        seed: 2,
      });
      const session = await Session.create(writeModel(model));
      for (const batch of [1, 3]) {
        const image = float32Tensor(
          [batch, ...inputShape],
          new Float32Array(batch * elementCount(inputShape)),
        );
        const { logits } = await session.run({ image });
        expect(logits!.shape).toEqual([batch, classes]);
      }
      await session.release();
    },
  );

  it('has the weights of the published CIFAR ResNet-20', () => {
    const model = backbone('resnet-20').build({
      ...target,
      inputShape: [3, 32, 32],
      normalization: { mean: [0, 0, 0], std: [1, 1, 1] },
    });
    const trained = [...model.graph.initializers].filter(
      ([name]) => !/normalize|norm\/mean|norm\/variance/.test(name),
    );
    const count = trained.reduce((sum, [, tensor]) => sum + elementCount(tensor.shape), 0);
    // 269,722 with parameter-free shortcuts (He et al. 2016, table 6: 0.27M); the two projections add
    // 16·32 + 32·64 weights and 2·32 + 2·64 scales and biases.
    expect(count).toBe(269_722 + 512 + 2_048 + 64 + 128);
  });

  it('is a function of its seed', () => {
    const bytes = (seed: number) => Buffer.from(writeModel(backbone('resnet-8').build({ ...target, seed })));
    expect(bytes(1).equals(bytes(1))).toBe(true);
    expect(bytes(1).equals(bytes(2))).toBe(false);
  });

  it('keeps its hyper-parameters in the file', () => {
    const made = backbone('resnet:widths=8-16,blocks=1-2').build(target).metadata.get('bonsai.backbone');
    expect(JSON.parse(made!)).toMatchObject({
      widths: [8, 16],
      blocksPerStage: [1, 2],
      classes: 10,
      seed: 1,
    });
  });

  it('refuses what makes no network', () => {
    expect(() => resNet('x', { widths: [8], blocksPerStage: [1, 1] })).toThrow(
      /one width and block count from 1/,
    );
    expect(() => resNet('x', { widths: [1e6], blocksPerStage: [1] })).toThrow(/from 1 to 8192/);
    expect(() => backbone('resnet:widths=8-x')).toThrow(/widths=8-x/);
    expect(() => backbone('vgg')).toThrow(/no backbone "vgg".*resnet-8/);
    expect(() => backbone('resnet-8').build({ ...target, inputShape: [3, 8, 8] })).toThrow(
      /1 means .* 3 channels/,
    );
  });
});
