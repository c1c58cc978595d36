import { describe, expect, it } from 'vitest';
import { countTrainable, namesOf, weightShape } from './networks.fixture.ts';

describe('a DenseNet', () => {
  it('has the weights of the published DenseNet-40', () => {
    // Huang et al. 2017, table 2: 1.0M for L = 40, k = 12. A layer that reads c channels has 2·c of BatchNormalization
    // and 9·12·c of convolution; blocks start at 16, 160 and 304 channels and end with 144 more.
    const layers = (first: number) =>
      Array.from({ length: 12 }, (_, i) => (first + 12 * i) * (2 + 9 * 12)).reduce((a, b) => a + b);
    const transition = (channels: number) => channels * (2 + channels);
    const ends = 3 * 9 * 16 + 2 * 448 + 448 * 10 + 10;
    const expected = layers(16) + transition(160) + layers(160) + transition(304) + layers(304) + ends;
    expect(countTrainable('densenet-40', 10)).toBe(expected);
    expect(Math.abs(expected - 1.0e6)).toBeLessThan(0.05e6);
  });

  it('has the weights of the published DenseNet-BC-100', () => {
    // Table 2: 0.8M for L = 100, k = 12, with bottlenecks and compression.
    const spec = 'densenet:growth=12,layers=16-16-16,bottleneck=4,compression=0.5';
    expect(Math.abs(countTrainable(spec, 10) - 0.8e6)).toBeLessThan(0.05e6);
  });

  it('compresses between blocks: down by the share, or to the nearest multiple', () => {
    expect(weightShape('densenet:growth=11,layers=2-1', 'transition1')).toEqual([22, 44, 1, 1]);
    expect(weightShape('densenet:growth=11,layers=3-1', 'transition1')).toEqual([27, 55, 1, 1]);
    expect(weightShape('densenet:growth=11,layers=3-1,multiple=16', 'transition1')).toEqual([32, 55, 1, 1]);
    expect(weightShape('densenet:growth=11,layers=3-1,compression=1', 'transition1')).toEqual([55, 55, 1, 1]);
    expect(weightShape('densenet:growth=1,layers=1-1,stem=1,compression=0.1', 'transition1')).toEqual([
      1, 2, 1, 1,
    ]);
  });

  it('has a stem and bottlenecks of the widths that the spec says', () => {
    expect(weightShape('densenet:growth=4,layers=1', 'stem')).toEqual([8, 3, 3, 3]);
    expect(weightShape('densenet:growth=4,layers=1,stem=5', 'stem')).toEqual([5, 3, 3, 3]);
    const spec = 'densenet:growth=4,layers=1,bottleneck=3';
    expect(weightShape(spec, 'block1/layer1/bottleneck')).toEqual([12, 8, 1, 1]);
    expect(weightShape(spec, 'block1/layer1')).toEqual([4, 12, 3, 3]);
    expect(namesOf('densenet:growth=4,layers=1').filter((name) => name.includes('bottleneck'))).toEqual([]);
  });

  it('has channels in multiples of 16 in its sizes for CPUs', () => {
    for (const spec of ['densenet-small', 'densenet-medium']) {
      for (const transition of ['transition1', 'transition2']) {
        expect(
          weightShape(spec, transition)
            .slice(0, 2)
            .map((width) => width % 16),
        ).toEqual([0, 0]);
      }
    }
  });
});
