import { existsSync, readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { seededRandom } from '../src/base/random.ts';
import { elementCount, float32Tensor, type Tensor } from '../src/base/tensor.ts';
import { probeSaturation } from '../src/engine/probe-saturation.ts';
import { GraphBuilder, modelOf } from '../src/graph/build.ts';
import type { Model } from '../src/graph/model.ts';
import { readModel } from '../src/graph/onnx/read.ts';
import { writeModel } from '../src/graph/onnx/write.ts';
import { quantizeNetwork } from '../src/port/calibrate/quantize-network.ts';
import type { Dataset } from '../src/port/data/data-module.ts';
import { compareLatency } from '../src/port/profile/compare-latency.ts';

/**
 * How much faster are networks in 8-bit integers than in floating point, on this machine, with one thread?
 * Chains of four 3×3 convolutions with Relu on 32×32 images (wanted: at least 1.4 times), and ResNet-20 of the shared
 * folder where it is there. Both forms of a network take turns in one thread; the whole is repeated, and the spread of the
 * speed-ups is printed. Weights and images are seeded, so that only the time is measured, not accuracy. Run:
 * npx tsc -p tsconfig.json --noEmit false --outDir dist/bench && node dist/bench/bench/int8.js
 */
const CHANNELS = [32, 48, 56, 60, 64];
const SIZE = 32;
const LAYERS = 4;
const RUNS = 200;
const REPEATS = 3;
const SEED = 1;

function chain(channels: number): Model {
  const random = seededRandom(SEED);
  const heNormal = (shape: readonly number[]): Tensor => {
    const deviation = Math.sqrt(2 / elementCount(shape.slice(1)));
    const count = elementCount(shape);
    return float32Tensor(
      shape,
      Float32Array.from({ length: count }, () => deviation * random.normal()),
    );
  };
  const build = new GraphBuilder('chain');
  let x = build.input('x', 'float32', [1, channels, SIZE, SIZE]);
  for (let layer = 0; layer < LAYERS; layer++) {
    const bias = build.constant(float32Tensor([channels], new Float32Array(channels).fill(0.1)));
    const weight = build.constant(heNormal([channels, channels, 3, 3]));
    x = build.op('Relu', [build.op('Conv', [x, weight, bias], { pads: [1, 1, 1, 1] })]);
  }
  build.output(x, 'float32', [1, channels, SIZE, SIZE]);
  return modelOf(build.finish());
}

function images(channels: number): Dataset {
  const random = seededRandom(SEED);
  const count = 16;
  const split = {
    count,
    images: Uint8Array.from({ length: count * channels * SIZE * SIZE }, () => random.integer(256)),
    labels: new Uint8Array(count),
  };
  const normalization = { mean: new Array(channels).fill(0.5), std: new Array(channels).fill(0.25) };
  const shape = [channels, SIZE, SIZE] as const;
  return {
    name: 'noise',
    classes: ['any'],
    shape,
    train: split,
    validation: split,
    test: split,
    normalization,
  };
}

const cases: [name: string, model: Model, channels: number][] = CHANNELS.map((channels) => [
  `chain of ${LAYERS} convolutions, ${channels} channels`,
  chain(channels),
  channels,
]);
const resnet = join(process.env.BONSAI_SHARED ?? '../shared', 'models', 'resnet20-cifar10-torch2.onnx');
if (existsSync(resnet)) cases.push(['ResNet-20', readModel(readFileSync(resnet)), 3]);

process.stdout.write(
  `${cpus()[0]?.model}, 1 thread, ${RUNS} turns, ${REPEATS} repeats, seed ${SEED}; ` +
    `8-bit weights saturate: ${(await probeSaturation()) ? 'yes, so 7 bits' : 'no'}\n`,
);
for (const [name, model, channels] of cases) {
  const { model: quantized } = await quantizeNetwork(model, images(channels));
  const pair = [writeModel(model), writeModel(quantized)];
  const speedups: number[] = [];
  let last = '';
  for (let repeat = 0; repeat < REPEATS; repeat++) {
    const [float, integer] = await compareLatency(pair, { runs: RUNS, seed: SEED });
    speedups.push(float!.median / integer!.median);
    last = `${float!.median.toFixed(3)} -> ${integer!.median.toFixed(3)} ms`;
  }
  const spread = `${Math.min(...speedups).toFixed(2)} to ${Math.max(...speedups).toFixed(2)} x`;
  process.stdout.write(`${name}: ${spread} (last: ${last})\n`);
}
