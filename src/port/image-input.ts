import type { DType } from '../base/dtype.ts';
import { BonsaiError } from '../base/errors.ts';
import { float32Tensor } from '../base/tensor.ts';
import { GraphBuilder } from '../graph/build.ts';
import { type Model, type Shape, withGraph } from '../graph/model.ts';
import { codeOfDtype } from '../graph/onnx/codes.ts';
import { namesIn } from '../graph/walk.ts';
import { NORMALIZATION_PREFIX } from '../ops/parameters.ts';
import type { Dataset } from './data/data-module.ts';

/** How images become a network's input. Bonsai's own networks take pixels in [0, 1] and normalise them inside. */
export interface ImageInput {
  /** Normalise pixels by the data's mean and deviation before the network, which was trained so. Default false. */
  readonly normalize?: boolean;
}

/**
 * A network of anybody's as one that takes float32 pixels in [0, 1] as [N, C, H, W], as `evaluate` feeds them: normalisation
 * goes before it where it is asked for, a Transpose where the network's input is [N, H, W, C], and a Cast where it is of
 * another floating-point type. All values of the network keep their names.
 * @returns the model itself where nothing is to do
 * @throws BonsaiError `shape_mismatch` where the network's first input is no image of the data's size, or no floats
 */
export function withImageInput(
  model: Model,
  dataset: Pick<Dataset, 'shape' | 'normalization'>,
  input: ImageInput = {},
): Model {
  const { graph } = model;
  const [image, ...others] = graph.inputs;
  const layout = layoutOf(image?.type?.shape, dataset.shape);
  if (image === undefined || layout === undefined || others.length > 0) {
    const found = graph.inputs.map(({ name, type }) => `"${name}" [${type?.shape?.join(', ') ?? ''}]`);
    throw new BonsaiError(
      'shape_mismatch',
      `The network should have one input, images of ${dataset.shape.join('×')}; it has ${found.join(', ') || 'none'}.`,
    );
  }
  const { dtype } = image.type!; // It has a layout, so its type is known.
  if (!FLOATS.has(dtype)) {
    throw new BonsaiError(
      'shape_mismatch',
      `The network's input "${image.name}" is ${dtype}; images are floats in [0, 1]. Give a network that takes ` +
        `${[...FLOATS].join(', ')}.`,
    );
  }
  if (layout === 'channels-first' && dtype === 'float32' && !input.normalize) return model;

  const build = new GraphBuilder(graph.name, { ...graph, nodes: [], inputs: [] });
  build.avoid(namesIn(graph));
  const [channels, height, width] = dataset.shape;
  let x = build.input(build.fresh(PIXELS), 'float32', [image.type!.shape![0]!, channels, height, width]);
  const steps: ((value: string, outputs: string[] | undefined) => string)[] = [];
  if (input.normalize) {
    const { mean, std } = dataset.normalization;
    const shape = [1, channels, 1, 1];
    const gain = build.constant(
      float32Tensor(
        shape,
        std.map((deviation) => 1 / deviation),
      ),
      `${NORMALIZATION_PREFIX}scale`,
    );
    // Under this prefix no training changes them.
    const centre = build.constant(float32Tensor(shape, mean), `${NORMALIZATION_PREFIX}mean`);
    x = build.op('Sub', [x, centre]);
    steps.push((value, outputs) =>
      build.op('Mul', [value, gain], {}, { outputs, name: build.fresh('pixels_scaled') }),
    );
  }
  if (layout === 'channels-last') {
    const options = { name: build.fresh('pixels_last') };
    steps.push((value, outputs) =>
      build.op('Transpose', [value], { perm: [0, 2, 3, 1] }, { ...options, outputs }),
    );
  }
  if (dtype !== 'float32') {
    const to = codeOfDtype(dtype);
    const options = { name: build.fresh('pixels_cast') };
    steps.push((value, outputs) => build.op('Cast', [value], { to }, { ...options, outputs }));
  }
  for (const [i, step] of steps.entries()) x = step(x, i === steps.length - 1 ? [image.name] : undefined);
  for (const node of graph.nodes) build.node(node);
  return withGraph(model, { ...graph, ...build.finish(), docString: graph.docString });
}

/** Types of which an image's input may be. */
const FLOATS: ReadonlySet<DType> = new Set(['float32', 'float16', 'bfloat16', 'float64']);

/** The name of the input that takes pixels. */
const PIXELS = 'pixels';

function layoutOf(shape: Shape | undefined, [c, h, w]: Dataset['shape']) {
  const fits = (sizes: readonly number[]) =>
    shape?.length === 4 &&
    sizes.every((size, i) => typeof shape[i + 1] !== 'number' || shape[i + 1] === size) &&
    shape.slice(1).some((size) => typeof size === 'number');
  if (fits([c, h, w])) return 'channels-first';
  return fits([h, w, c]) ? 'channels-last' : undefined;
}
