import { describe, expect, it } from 'vitest';
import { builtFor, countTrainable, weightShape } from './networks.fixture.ts';

describe('a ResNet', () => {
  // He et al. 2016, table 6 (0.27M, 0.46M, 0.85M) with parameter-free shortcuts; the two projections add 16·32 + 32·64
  // weights and 2·32 + 2·64 scales and biases.
  it.each([
    ['resnet-20', 269_722],
    ['resnet-32', 464_154],
    ['resnet-56', 853_018],
  ])('has the weights of the published %s', (spec, published) => {
    expect(countTrainable(spec, 10)).toBe(published + 512 + 2_048 + 64 + 128);
  });

  it('keeps its hyper-parameters in the file', () => {
    const spec = 'resnet:widths=8-16,blocks=1-2';
    const made = builtFor(spec, { seed: 4 }).metadata.get('bonsai.backbone');
    expect(JSON.parse(made!)).toEqual({
      name: spec,
      family: 'resnet',
      widths: [8, 16],
      blocks: [1, 2],
      stride: 1,
      pool: 1,
      inputShape: [3, 32, 32],
      classes: 10,
      seed: 4,
    });
  });

  it('projects shortcuts where the shape changes, and only there', () => {
    const spec = 'resnet:widths=8-8-16,blocks=2-1-1';
    const projected = [...builtFor(spec).graph.initializers.keys()].filter((name) =>
      name.endsWith('shortcut/conv/weight'),
    );
    expect(projected).toEqual(['stage2/block1/shortcut/conv/weight', 'stage3/block1/shortcut/conv/weight']);
    expect(weightShape(spec, 'stage3/block1/shortcut')).toEqual([16, 8, 1, 1]);
  });
});
