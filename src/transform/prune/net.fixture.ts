import { type Random, seededRandom } from '../../base/random.ts';
import { elementCount, float32Tensor, type Tensor } from '../../base/tensor.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Model } from '../../graph/model.ts';

/** A network written by hand: seeded weights, and an end that gives five numbers. */
export class Net {
  readonly build = new GraphBuilder('net');
  /** Name of the last weight, [channels, 5]. */
  head = '';
  readonly #random: Random = seededRandom(5);

  image(shape: readonly number[]): string {
    return this.build.input('image', 'float32', ['N', ...shape]);
  }

  random(fanIn: number, shape: readonly number[]): Tensor {
    const scale = Math.sqrt(2 / fanIn);
    return float32Tensor(
      shape,
      Float32Array.from({ length: elementCount(shape) }, () => scale * this.#random.normal()),
    );
  }

  kernel(shape: readonly number[]): string {
    return this.build.constant(this.random(elementCount(shape.slice(1)), shape));
  }

  matrix(shape: readonly number[]): string {
    return this.build.constant(this.random(shape[0]!, shape));
  }

  vector(count: number): string {
    return this.build.constant(this.random(2, [count]));
  }

  conv(x: string, from: number, to: number): string {
    return this.build.op('Conv', [x, this.kernel([to, from, 3, 3]), this.vector(to)], { pads: [1, 1, 1, 1] });
  }

  close(x: string, channels: number): Model {
    const { build } = this;
    this.head = this.matrix([channels, 5]);
    const flat = build.op('Flatten', [build.op('GlobalMaxPool', [x])]);
    build.output(build.op('MatMul', [flat, this.head], {}, { outputs: ['logits'] }), 'float32', ['N', 5]);
    return modelOf(build.finish());
  }
}
