import { describe, expect, it } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { float32Tensor, floatsOf } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import type { Model } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { backbone } from '../backbones/registry.ts';
import { growNetwork } from './grow.ts';

const build = (spec: string, seed: number) =>
  backbone(spec).build({
    inputShape: [1, 12, 12],
    classes: 5,
    normalization: { mean: [0.4], std: [0.3] },
    seed,
  });

async function logitsOf(model: Model): Promise<Float32Array> {
  const random = seededRandom(3);
  const image = float32Tensor(
    [4, 1, 12, 12],
    Float32Array.from({ length: 4 * 144 }, () => random.uniform()),
  );
  const session = await Session.create(writeModel(model));
  const { logits } = await session.run({ image });
  await session.release();
  return floatsOf(logits!);
}

describe('growing a network', () => {
  it.each([
    'resnet:widths=12-16,blocks=1-1',
    'resnet:widths=8-16,blocks=2-3',
    'resnet:widths=16-24,blocks=2-2',
  ])('keeps what it computes: %s', async (spec) => {
    const small = build('resnet:widths=8-16,blocks=1-1', 1);
    const before = await logitsOf(small);
    const after = await logitsOf(growNetwork(small, build(spec, 2)));
    before.forEach((score, i) => {
      expect(after[i]).toBeCloseTo(score, 4);
    });
  });

  it('is refused where the small one does not fit', () => {
    const small = build('resnet:widths=8-16,blocks=1-2', 1);
    expect(() => growNetwork(small, build('resnet:widths=8-12,blocks=1-2', 2))).toThrow(
      /without room for its "stage2/,
    );
    expect(() => growNetwork(small, build('resnet:widths=8-16,blocks=1-1', 2))).toThrow(/block2.*has none/);
  });
});
