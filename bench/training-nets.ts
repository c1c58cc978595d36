import { type Random, seededRandom } from '../src/base/random.ts';
import { elementCount, float32Tensor, type Tensor } from '../src/base/tensor.ts';
import { float } from '../src/graph/attributes.ts';
import { GraphBuilder, modelOf } from '../src/graph/build.ts';
import type { Model } from '../src/graph/model.ts';

/** The networks of bench/training.ts: images [N, 3, 32, 32], ten classes. */
export const NETS = {
  'ResNet-20': () => resNet([16, 32, 64]),
  'ResNet-20 13/27/50': () => resNet([13, 27, 50]),
  'ResNet-20 folded': () => resNet([16, 32, 64], 'bias'),
  'ResNet-20 13/27/50 folded': () => resNet([13, 27, 50], 'bias'),
  'MobileNetV1-0.25': () => mobileNet([8, 16, 32, 64, 128, 256]),
  'MobileNetV1 7…213': () => mobileNet([7, 13, 27, 53, 107, 213]),
  'DenseNet k=16': () => denseNet(16),
  'DenseNet k=11': () => denseNet(11),
} as const satisfies Record<string, () => Model>;

export const CLASSES = 10;
export const SIZE = 32;

interface Convolution {
  readonly kernel?: number;
  readonly stride?: number;
  readonly group?: number;
  /** What follows: a BatchNormalization, only a bias of the convolution's own, or nothing. */
  readonly after?: 'norm' | 'bias' | 'nothing';
}

class Net {
  readonly #build = new GraphBuilder('net');
  readonly #random: Random = seededRandom(1);

  constructor() {
    this.#build.input('image', 'float32', ['N', 3, SIZE, SIZE]);
  }

  conv(x: string, from: number, to: number, options: Convolution = {}): string {
    const { kernel = 3, stride = 1, group = 1, after = 'norm' } = options;
    const padding = kernel >> 1;
    const shape = [to, from / group, kernel, kernel];
    const gain = after === 'bias' ? 0.7 : 2; // Without normalisation the sums of a residual network would grow.
    const w = this.#build.constant(this.#normal(shape, Math.sqrt(gain / elementCount(shape.slice(1)))), 'w');
    const bias = after === 'bias' ? this.#build.constant(this.#normal([to], 0), 'b') : undefined;
    const y = this.#build.op('Conv', [x, w, bias], {
      group,
      kernel_shape: [kernel, kernel],
      strides: [stride, stride],
      pads: [padding, padding, padding, padding],
    });
    return after === 'norm' ? this.norm(y, to) : y;
  }

  norm(x: string, channels: number): string {
    const parameters = [1, 0, 0, 1].map((value) =>
      this.#build.constant(float32Tensor([channels], new Float32Array(channels).fill(value)), 'norm'),
    );
    return this.#build.op('BatchNormalization', [x, ...parameters], { momentum: float(0.9) });
  }

  op(opType: 'Add' | 'Relu', ...inputs: string[]): string {
    return this.#build.op(opType, inputs);
  }

  concat(...inputs: string[]): string {
    return this.#build.op('Concat', inputs, { axis: 1 });
  }

  halve(x: string): string {
    return this.#build.op('AveragePool', [x], { kernel_shape: [2, 2], strides: [2, 2] });
  }

  head(x: string, channels: number): Model {
    const build = this.#build;
    const flat = build.op('Flatten', [build.op('GlobalAveragePool', [x])]);
    const w = build.constant(this.#normal([CLASSES, channels], 0.1), 'head');
    const b = build.constant(this.#normal([CLASSES], 0), 'head_bias');
    build.op('Gemm', [flat, w, b], { transB: 1 }, { outputs: ['logits'] });
    build.output('logits', 'float32', ['N', CLASSES]);
    return modelOf(build.finish());
  }

  #normal(shape: readonly number[], deviation: number): Tensor {
    return float32Tensor(
      shape,
      Float32Array.from({ length: elementCount(shape) }, () => deviation * this.#random.normal()),
    );
  }
}

/** Three stages of three basic blocks with projected shortcuts (He et al. 2016), or the same with biases instead. */
function resNet(widths: readonly number[], after: 'norm' | 'bias' = 'norm'): Model {
  const net = new Net();
  let from = widths[0]!;
  let x = net.op('Relu', net.conv('image', 3, from, { after }));
  for (const [stage, to] of widths.entries()) {
    for (let block = 0; block < 3; block++) {
      const stride = stage > 0 && block === 0 ? 2 : 1;
      const inner = net.op('Relu', net.conv(x, from, to, { stride, after }));
      const outer = net.conv(inner, to, to, { after });
      const shortcut = stride === 1 ? x : net.conv(x, from, to, { kernel: 1, stride, after });
      x = net.op('Relu', net.op('Add', outer, shortcut));
      from = to;
    }
  }
  return net.head(x, from);
}

/** Depthwise and pointwise convolutions (Howard et al. 2017), with a stem of stride 1 for small images. */
function mobileNet(widths: readonly number[]): Model {
  const net = new Net();
  let from = widths[0]!;
  let x = net.op('Relu', net.conv('image', 3, from));
  const layers: readonly [width: number, stride: number][] = [
    [1, 1],
    [2, 2],
    [2, 1],
    [3, 2],
    [3, 1],
    [4, 2],
    ...Array.from({ length: 5 }, () => [4, 1] as [number, number]),
    [5, 2],
    [5, 1],
  ];
  for (const [width, stride] of layers) {
    const to = widths[width]!;
    const spatial = net.op('Relu', net.conv(x, from, from, { stride, group: from }));
    x = net.op('Relu', net.conv(spatial, from, to, { kernel: 1 }));
    from = to;
  }
  return net.head(x, from);
}

/** Three dense blocks of five layers (Huang et al. 2017), transitions that halve channels and image. */
function denseNet(growth: number): Model {
  const net = new Net();
  let channels = 32;
  let x = net.conv('image', 3, channels, { after: 'nothing' });
  const active = () => net.op('Relu', net.norm(x, channels));
  for (let block = 0; block < 3; block++) {
    for (let layer = 0; layer < 5; layer++) {
      x = net.concat(x, net.conv(active(), channels, growth, { after: 'nothing' }));
      channels += growth;
    }
    if (block === 2) break;
    const half = channels >> 1;
    x = net.halve(net.conv(active(), channels, half, { kernel: 1, after: 'nothing' }));
    channels = half;
  }
  return net.head(active(), channels);
}
