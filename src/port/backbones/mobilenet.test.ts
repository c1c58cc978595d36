import { describe, expect, it } from 'vitest';
import { countCost } from '../../ops/count.ts';
import { roundWidth } from './layers.ts';
import { builtFor, countTrainable, weightShape } from './networks.fixture.ts';

describe('a MobileNet', () => {
  it('has the weights and the work of the published MobileNetV1', () => {
    // Howard et al. 2017, table 8: 4.2 million parameters, 569 million multiply-accumulates at 224×224.
    expect(countTrainable('mobilenet', 1000)).toBe(4_231_976);
    expect(Math.round(countMacs('mobilenet') / 1e6)).toBe(569);
    // Table 6: 0.5 million parameters at width 0.25.
    expect(Math.round(countTrainable('mobilenet-0.25', 1000) / 1e5)).toBe(5);
  });

  it('has the weights and the work of the published MobileNetV2', () => {
    // Sandler et al. 2018, table 4: 3.4 million parameters, 300 million multiply-accumulates.
    expect(countTrainable('mobilenet-v2', 1000)).toBe(3_504_872);
    expect(Math.round(countMacs('mobilenet-v2') / 1e6)).toBe(301);
  });

  it('scales widths in multiples', () => {
    expect(weightShape('mobilenet-0.25', 'stem')).toEqual([8, 3, 3, 3]);
    expect(weightShape('mobilenet-0.25', 'pair13/pointwise')).toEqual([256, 256, 1, 1]);
    expect(weightShape('mobilenet-0.25', 'pair13/depthwise')).toEqual([256, 1, 3, 3]);
    expect(weightShape('mobilenet:width=0.21,multiple=1', 'pair1/pointwise')).toEqual([13, 7, 1, 1]);
    // The last convolution of V2 stays as wide for narrow networks, and grows with wide ones.
    expect(weightShape('mobilenet-v2:width=0.5', 'last')).toEqual([1280, 160, 1, 1]);
    expect(weightShape('mobilenet-v2:width=1.4', 'last')).toEqual([1792, 448, 1, 1]);
  });

  it('rounds widths as the published code does', () => {
    // 0.35 · 24 = 8.4 → 8; 0.35 · 32 = 11.2 → 8 would lose more than a tenth, so 16; 0.35 · 16 = 5.6 → 8, the least.
    expect([8.4, 11.2, 5.6, 22.4, 44.8].map((width) => roundWidth(width, 8))).toEqual([8, 16, 8, 24, 48]);
    expect([7.4, 7.5, 0.2].map((width) => roundWidth(width, 1))).toEqual([7, 8, 1]);
  });
});

/** Of the convolutions and the linear layer, at 224×224 and 1000 classes, as the papers count. */
function countMacs(spec: string): number {
  const model = builtFor(spec, { inputShape: [3, 224, 224], classes: 1000 });
  const work = [...countCost(model).byNode];
  return work
    .filter(([index]) => model.graph.nodes[index]!.opType !== 'BatchNormalization')
    .reduce((sum, [, macs]) => sum + macs, 0);
}
