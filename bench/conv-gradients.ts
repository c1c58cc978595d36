import { performance } from 'node:perf_hooks';
import { seededRandom } from '../src/base/random.ts';
import { elementCount, float32Tensor, type Tensor } from '../src/base/tensor.ts';
import { Session } from '../src/engine/session.ts';
import { GraphBuilder, modelOf } from '../src/graph/build.ts';
import { writeModel } from '../src/graph/onnx/write.ts';
import {
  type ConvGeometry,
  inputGradient,
  type WeightGradientForm,
  weightGradient,
} from '../src/ops/conv-gradients.ts';

/**
 * Which form of a convolution's gradients is fastest at which sizes?
 * Prints GMAC/s (median of runs, two threads) of the forward pass, dX and each form of dW. Run:
 * npx tsc -p tsconfig.json --noEmit false --outDir dist/bench && node dist/bench/bench/conv-gradients.js
 */
const CASES: readonly [
  batch: number,
  channels: number,
  filters: number,
  size: number,
  kernel: number,
  stride: number,
  group?: number,
][] = [
  [64, 1, 64, 28, 3, 1],
  [64, 16, 16, 28, 3, 1],
  [64, 32, 32, 28, 3, 1],
  [64, 64, 64, 28, 3, 1],
  [64, 64, 128, 28, 3, 2],
  [64, 64, 128, 28, 1, 2],
  [64, 128, 128, 14, 3, 1],
  [64, 128, 256, 14, 3, 2],
  [64, 256, 256, 7, 3, 1],
  [64, 64, 64, 14, 3, 1],
  [64, 256, 256, 4, 3, 1],
  [64, 64, 64, 28, 3, 1, 64],
];
const FORMS: readonly WeightGradientForm[] = [
  'pointwise',
  'per-offset',
  'per-offset-gemm',
  'columns',
  'separable',
];
const RUNS = 5;

async function time(inputs: Record<string, Tensor>, write: (build: GraphBuilder) => string): Promise<number> {
  const build = new GraphBuilder('case');
  for (const [name, tensor] of Object.entries(inputs)) build.input(name, 'float32', tensor.shape);
  // Only a sum leaves the graph: copying a large output would count as work.
  const sum = build.op('ReduceMax', [write(build)], { keepdims: 0 });
  build.output(sum, 'float32', []);
  const model = modelOf(build.finish(), { extraOpsets: [{ domain: 'com.microsoft', version: 1 }] });
  const session = await Session.create(writeModel(model), { intraOpThreads: 2 });
  await session.run(inputs);
  const times: number[] = [];
  for (let i = 0; i < RUNS; i++) {
    const start = performance.now();
    await session.run(inputs);
    times.push(performance.now() - start);
  }
  await session.release();
  return times.sort((a, b) => a - b)[RUNS >> 1]!;
}

for (const [batch, channels, filters, size, kernel, stride, group = 1] of CASES) {
  const padding = kernel >> 1;
  const out = Math.floor((size + 2 * padding - kernel) / stride) + 1;
  const form: ConvGeometry = {
    batch,
    channels,
    filters,
    group,
    input: [size, size],
    output: [out, out],
    windows: {
      kernel: [kernel, kernel],
      strides: [stride, stride],
      dilations: [1, 1],
      padsBegin: [padding, padding],
      padsEnd: [padding, padding],
    },
  };
  const random = seededRandom(1);
  const filled = (...shape: number[]) =>
    float32Tensor(
      shape,
      Float32Array.from({ length: elementCount(shape) }, () => random.normal()),
    );
  const x = filled(batch, channels, size, size);
  const w = filled(filters, channels / group, kernel, kernel);
  const dy = filled(batch, filters, out, out);
  const gmac = (batch * out * out * filters * (channels / group) * kernel * kernel) / 1e9;
  const row: string[] = [];
  const put = (name: string, ms: number) =>
    row.push(`${name} ${ms.toFixed(1)} ms (${((gmac / ms) * 1e3).toFixed(0)})`);
  put(
    'forward',
    await time({ x, w }, (build) =>
      build.op('Conv', ['x', 'w'], {
        group,
        pads: [padding, padding, padding, padding],
        strides: [stride, stride],
      }),
    ),
  );
  put('dX', await time({ dy, w }, (build) => inputGradient(build, form, 'dy', 'w')));
  for (const way of FORMS) {
    if (way === 'pointwise' && kernel > 1) continue;
    if (way === 'separable' && stride > 1) continue;
    if (group > 1 && way !== 'per-offset-gemm') continue;
    if (way === 'per-offset' && batch * channels * filters > 2 ** 23) continue;
    put(way, await time({ x, dy }, (build) => weightGradient(build, form, 'x', 'dy', way)));
  }
  process.stdout.write(
    `N${batch} ${channels}->${filters} ${size}x${size} k${kernel} s${stride} g${group}: ${row.join(', ')}\n`,
  );
}
