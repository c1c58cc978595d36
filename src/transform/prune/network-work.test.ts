import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { elementCount, float32Tensor } from '../../base/tensor.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Model } from '../../graph/model.ts';
import { readModel } from '../../graph/onnx/read.ts';
import { removeUnused } from '../../graph/walk.ts';
import { countCost, countParameters } from '../../ops/count.ts';
import { foldConstants } from '../passes/fold-constants.ts';
import { prepareQuantization } from '../quantize/prepare.ts';
import { observedValues, quantize } from '../quantize/quantize.ts';
import { costAt, rankingsOf } from './allocate.ts';
import { groupsOf } from './groups.ts';
import { l2Criterion } from './importance/norm.ts';
import { propagateLabels } from './labels.ts';
import { macItems, networkWork } from './network-work.ts';
import { fillWeights, LAYERS, randomNetwork } from './networks.fixture.ts';
import { prune } from './prune.ts';

const graphs = join(process.env.BONSAI_SHARED ?? '../shared', 'graphs');

/** Draws widths, and compares what the functions say with a count of the network pruned to them. */
function expectExact(given: Model, seed: number): void {
  const model = foldConstants(given);
  const propagation = propagateLabels(model);
  const { groups } = groupsOf(propagation);
  const random = seededRandom(seed);
  const whole = groups.map(({ channels }) => channels);
  const criterion = l2Criterion();
  const scores = groups.map((group) => criterion.scores(group));
  const rankings = rankingsOf(propagation, groups, scores);
  const counts = whole.map((channels, i) => Math.max(rankings[i]!.staying, 1 + random.integer(channels)));
  const work = networkWork(propagation, groups, rankings);
  const kept = new Map(groups.map(({ key }, i) => [key, counts[i]!]));
  const pruned = prune(model, { ratio: 0, align: 1, criterion, kept }).model;
  const items = macItems(work, whole);
  expect(costAt(items, whole)).toBe(countCost(model).macs);
  expect(costAt(items, counts)).toBe(countCost(pruned).macs);
  expect(costAt(work.parameters, whole)).toBe(countParameters(model));
  expect(costAt(work.parameters, counts)).toBe(countParameters(pruned));
}

test('work and size at any widths are those of the network pruned to them', () => {
  fc.assert(
    fc.property(
      fc.array(fc.constantFrom(...LAYERS), { minLength: 1, maxLength: 7 }),
      fc.constantFrom('gap' as const, 'flatten' as const),
      fc.integer({ min: 1, max: 1e6 }),
      (layers, head, seed) => expectExact(randomNetwork(layers, head, seed), seed),
    ),
    { numRuns: 40, seed: 11 },
  );
});

test('a weight that two nodes share and that is cut along both axes counts once', () => {
  const random = seededRandom(3);
  const b = new GraphBuilder('shared');
  const weight = (name: string, shape: readonly number[]) =>
    b.initializer(
      name,
      float32Tensor(
        shape,
        Array.from({ length: elementCount(shape) }, () => random.normal()),
      ),
    );
  const image = b.input('image', 'float32', ['N', 3, 4, 4]);
  const shared = weight('shared', [8, 8, 1, 1]);
  let x = b.op('Conv', [image, weight('stem', [8, 3, 1, 1])]);
  for (let i = 0; i < 2; i++) x = b.op('Conv', [b.op('Relu', [x]), shared]);
  b.op('Conv', [x, weight('head', [2, 8, 1, 1])], {}, { outputs: ['y'] });
  b.output('y', 'float32', ['N', 2, 4, 4]);
  for (let seed = 1; seed <= 5; seed++) expectExact(modelOf(b.finish()), seed);
});

test('so are those of networks in 8-bit integers, with weights that several nodes share', () => {
  for (let seed = 1; seed <= 4; seed++) {
    const float = prepareQuantization(
      randomNetwork(['conv', 'residual', 'concat', 'projection'], 'gap', seed),
    );
    const ranges = new Map(observedValues(float).map((name) => [name, { min: -2, max: 3 }]));
    const integers = quantize(float, ranges);
    // Scales and zero points are not trained: as many values as before, biases and weights alike.
    expect(countParameters(integers)).toBe(countParameters(float));
    expectExact(integers, seed);
    const { nodes, initializers } = integers.graph;
    const byShape = new Map<string, string>();
    const shared = nodes.map((node) => {
      const { dtype, shape } = initializers.get(node.inputs[0]!) ?? {};
      if (node.opType !== 'DequantizeLinear' || dtype !== 'int8') return node;
      const first = byShape.get(shape!.join()) ?? node.inputs[0]!;
      byShape.set(shape!.join(), first);
      return { ...node, inputs: node.inputs.with(0, first) };
    });
    const model = { ...integers, graph: removeUnused({ ...integers.graph, nodes: shared }) };
    expect(countParameters(model)).toBeLessThan(countParameters(integers));
    expectExact(model, seed);
  }
});

test.skipIf(!existsSync(graphs))('so are those of networks that others exported', () => {
  for (const name of ['cifar_resnet56.bn', 'mobilenet_v2.bn', 'squeezenet1_1']) {
    const bytes = gunzipSync(readFileSync(join(graphs, `${name}.onnx.gz`)));
    expectExact(fillWeights(readModel(bytes), 1), 2);
  }
});
